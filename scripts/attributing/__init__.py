"""Parts of `make_attribution_table.py`."""
