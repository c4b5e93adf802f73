"""Families whose physics MuJoCo computes, and its batch engine."""
