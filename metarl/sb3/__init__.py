"""The bridge to Stable-Baselines3: its algorithms on our worlds, our policies as its PPO.

Stable-Baselines3 is imported with the first name that needs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metarl.sb3.policies import ppo_from
    from metarl.sb3.vec_env import SB3VecEnv

_MODULES = {"SB3VecEnv": "metarl.sb3.vec_env", "ppo_from": "metarl.sb3.policies"}

__all__ = ["SB3VecEnv", "ppo_from"]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
