"""One cell, from its question to its record: prepare, craft, judge, check."""
