"""Kills, crashes and flipped bits: what a run must survive. `scripts/torture_store.py` runs it."""
