"""The control task families that ship with MetaRL, registered as a user's would be."""

from metarl_envs.navigation import Navigation2D

__all__ = ["Navigation2D"]
