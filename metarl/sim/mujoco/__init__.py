"""Families with MuJoCo physics, and the engine that runs them on CPU threads."""
