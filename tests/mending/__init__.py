"""The failures of the lab, mended one by one: which line of an engine is at fault, and what the lab
says of an engine without that fault. ``mends`` is the list, ``workshop`` builds the engines,
``verdicts`` asks the lab about one of them."""
