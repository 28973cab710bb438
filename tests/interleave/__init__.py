"""All interleavings of small programs. ``python -m tests.interleave`` lists the programs and runs
single schedules."""
