"""Worlds in which the truth is known, and what the statistics find in them."""
