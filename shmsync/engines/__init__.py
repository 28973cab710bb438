"""One module per engine: its name, and what it promises."""
