"""Simulators that step many worlds at once and keep their state themselves."""
