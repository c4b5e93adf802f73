"""The contract that every family keeps as a gymnasium environment, by its checker and SB3's."""

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_for_sb3

from metarl.errors import SettingsError
from metarl.sim import FAMILIES

# Observations without limits are what robots have, and other limits of actions than 1 too;
# gymnasium's own robots get the same advice.
# Meta-World hides its goals behind zeros, whose bounds are equal.
ADVICE = (
    r".*(Box observation space (minimum|maximum) value is|maximum and minimum values are equal"
    r"|normalized (Box action )?space)"
)


@pytest.mark.parametrize("name", FAMILIES.names())
def test_both_checkers_find_nothing(name):
    size = {"width": 64, "height": 48}
    try:
        env = gymnasium.make(  # both checkers follow
            f"metarl/{name}", render_mode="rgb_array", disable_env_checker=True, **size
        )
        env.reset(seed=0)
        frame = env.render()
    except SettingsError as error:
        if "OpenGL" not in str(error) and "not installed" not in str(error):
            raise
        pytest.skip(str(error))
    assert frame.shape == (48, 64, 3) and frame.dtype == np.uint8 and frame.std() > 0
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=ADVICE)
        # Its pictures, as above, would take most of the time.
        check_env(env.unwrapped, skip_render_check=True)
        check_for_sb3(env)
    env.close()
