"""Families made of gymnasium environments, and the engine that runs these."""
