"""How much fits, what it costs, and how soon news comes."""
