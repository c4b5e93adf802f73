"""Figures, terminal plots and films of an adaptation."""
