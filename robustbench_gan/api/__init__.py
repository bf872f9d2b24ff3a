"""What Python code calls: one attack on one model."""
