"""Families of gymnasium environments, and the engine that runs them."""
