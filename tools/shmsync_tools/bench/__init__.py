"""How fast shmsync is, beside what others do and what there is below."""
