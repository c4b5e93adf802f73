"""MuJoCo Warp: physics on NVIDIA GPUs. The optional packages are imported on first use."""
