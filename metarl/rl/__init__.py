"""Control tasks in the inner loop: policies, rollouts, returns and surrogate losses."""
