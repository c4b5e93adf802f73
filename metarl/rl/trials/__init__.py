"""Trials of several episodes, and the agents that play them: RL^2 and fixed strategies."""
