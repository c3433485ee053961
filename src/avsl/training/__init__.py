"""Training: the Lightning module, its loop and its checkpoints."""
