"""Trained policies, networks and adaptations as files, each verified after writing."""
