"""What a policy adapts on: recorded episodes, logs and trajectories."""
