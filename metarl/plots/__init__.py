"""Figures, terminal plots and videos of adaptation."""
