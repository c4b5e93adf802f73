"""Adaptation curves, their statistics and figures, and published protocols."""
