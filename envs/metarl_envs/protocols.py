"""Published evaluations of the families in this package."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from metarl.evaluation.control_protocol import ControlProtocol
from metarl.sim import ControlTasks

# Mean return over the 40 goals after 0, 1, ... steps: Finn et al. 2017, appendix, and the
# snapshots' evaluations in github.com/cbfinn/maml_rl, icml/.
NAVIGATION = {
    "maml": {0: -40.41, 1: -11.68, 2: -3.33, 3: -3.23},
    "random": {0: -82.66, 1: -57.96, 2: -53.84, 3: -46.81},
    "oracle": {0: -2.29},
}


def icml_navigation() -> list[ControlProtocol]:
    """The evaluation of 2D navigation by Finn et al. 2017, as their code has it.

    40 goals of numpy's seed 1; 40 trajectories per step; the first step at the training rate, later
    ones at half of it. A second protocol has the 20 trajectories of the paper's text; a third keeps
    the rate, for what was trained with several steps or learned its rates.
    """
    goals = np.random.RandomState(1).uniform(-0.5, 0.5, (40, 2))
    tasks = ControlTasks({"goal": torch.tensor(goals, dtype=torch.float32)})
    halved = ControlProtocol(
        "icml2017", tasks, steps=3, trajectories=40, scales=(1.0, 0.5, 0.5), published=NAVIGATION,
        source="Finn et al. 2017",
    )  # fmt: skip
    fewer = replace(halved, name="icml2017_20_rollouts", trajectories=20, published={})
    return [halved, fewer, replace(halved, name="icml2017_rate_kept", scales=(), published={})]
