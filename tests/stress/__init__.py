"""Many processes that do everything at once, and are killed at any time."""
