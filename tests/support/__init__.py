"""What the tests stand on: actors, a watchdog, lock-free looks at a segment, the oracle's
language."""
