"""`rbg audit`: checks of a defense that need runs of their own. One file a check, named in `catalogue.py`."""
