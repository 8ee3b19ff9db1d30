"""This project beside five others, on the same texts, queries and model. Run as `python -m peers`; see `__main__`."""
