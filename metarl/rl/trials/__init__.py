"""Agents that adapt by acting: trials of several episodes, RL^2 and fixed strategies."""
