"""Trained policies without MetaRL: plain modules and exported files."""
