"""Official checkpoints, read without running anything that they contain."""
