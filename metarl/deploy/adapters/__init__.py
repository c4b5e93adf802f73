"""Adapters: a trained learner that adapts to data or to a robot, and what they check."""
