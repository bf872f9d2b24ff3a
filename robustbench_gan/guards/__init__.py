"""What belongs to others is left as it was: code that is not ours is watched while it runs."""
