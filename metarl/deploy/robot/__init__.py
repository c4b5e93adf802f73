"""What acts on one robot: actors, limits and roll-back, environments with other numbers."""
