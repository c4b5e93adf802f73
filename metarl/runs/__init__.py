"""A run on disk: its folder, checkpoints, logs and signals."""
