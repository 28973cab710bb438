"""Killing: at random instants, and at chosen instructions."""
