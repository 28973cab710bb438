"""Recorded histories of calls that overlap, and orders of instants that explain them."""
