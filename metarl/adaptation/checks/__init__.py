"""Checks of networks, losses, metrics and update rules, made once, on a few tasks."""
