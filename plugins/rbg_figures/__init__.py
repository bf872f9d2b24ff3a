"""Figures of the documents, computed again by `rbg reproduce NAME`: one file a figure, each a command of its own."""
