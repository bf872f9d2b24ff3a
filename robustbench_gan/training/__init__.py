"""What must be trained before a cell can run: the loop, checkpoints, the store, the systems that cells share."""
