"""Training: the loop, run folders, checkpoints, schedules; it names no method and no data set."""
