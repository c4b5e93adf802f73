"""Pickling of functions and classes that build environments."""

from __future__ import annotations

import pickle
from typing import Any

from gymnasium.vector.utils import CloudpickleWrapper

from metarl.errors import SettingsError


def picklable(env: Any, title: str) -> Any:
    """Returns `env`, or a wrapper that pickles it by value if that is necessary.

    Args:
        env: The id of an environment, or a function or class that builds one.
        title: Its name, for the message.

    Raises:
        SettingsError: It cannot be pickled either way.
    """
    try:
        pickle.dumps(env)
        return env
    except Exception:  # pickle raises any kind, for lambdas and local functions
        wrapper = CloudpickleWrapper(env)
    try:
        pickle.dumps(wrapper)
        return wrapper
    except Exception as error:
        raise SettingsError(
            f"A family of {title!r} cannot be pickled: {type(error).__name__}: {error}. Build its "
            "environments by a function or class at the top of a module."
        ) from error
