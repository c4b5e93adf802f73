"""Adaptation curves, their statistics, and published evaluation protocols."""
