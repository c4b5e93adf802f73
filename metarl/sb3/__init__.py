"""The bridge to Stable-Baselines3: its algorithms on our worlds, our policies as its PPO."""

from metarl.sb3.policies import ppo_from
from metarl.sb3.vec_env import SB3VecEnv

__all__ = ["SB3VecEnv", "ppo_from"]
