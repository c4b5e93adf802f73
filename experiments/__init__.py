"""One experiment per environment; each module is also a script."""
