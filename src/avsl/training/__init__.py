"""Training: the Lightning module, the loop and checkpoints."""
