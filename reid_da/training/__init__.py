"""Training: the loop, its methods, run folders and checkpoints."""
