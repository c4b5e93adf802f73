"""Environments of gymnasium as families of tasks, stepped in process or by workers."""
