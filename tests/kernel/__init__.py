"""The model is checked against the kernel's own driver, and both against a record of its answers.

``record`` and ``check`` need a /dev/ntsync (``tools/vm/run -- python -m tests.kernel.check``); the
tests replay the record, tests/data/ntsync.jsonl.gz, and need nothing.
"""
