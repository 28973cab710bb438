"""The scenarios, one module for each chapter of the catalogue."""
