"""The segment: making it, sharing it, leaving it, filling it, breaking it."""
