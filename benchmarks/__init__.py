"""Benchmarks of MetaRL against the alternatives a user would choose."""
