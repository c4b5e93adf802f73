"""MuJoCo Warp: physics on NVIDIA GPUs; what it needs is imported when it is first used."""
