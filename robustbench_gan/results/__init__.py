"""Records on disk, and what lies beside them."""
