"""Published evaluation protocols of the families in this package."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from metarl.evaluation.control_protocol import ControlProtocol
from metarl.sim import ControlTasks, TaskFamily

# Mean return over the 40 goals after 0, 1, ... adaptation steps: Finn et al. 2017, appendix, and
# the evaluations of saved policies in github.com/cbfinn/maml_rl, icml/.
NAVIGATION = {
    "maml": {0: -40.41, 1: -11.68, 2: -3.33, 3: -3.23},
    "random": {0: -82.66, 1: -57.96, 2: -53.84, 3: -46.81},
    "oracle": {0: -2.29},
}


def icml_navigation() -> list[ControlProtocol]:
    """Returns the protocols of Finn et al. 2017 for 2D navigation, as in their code.

    40 goals from numpy's seed 1 and 40 trajectories per step; the first adaptation step has the
    training learning rate, later steps half of it. The second protocol uses the 20 trajectories of
    the paper's text. The third keeps the rate, for learners trained with several steps or with
    learned rates.
    """
    goals = np.random.RandomState(1).uniform(-0.5, 0.5, (40, 2))
    tasks = ControlTasks({"goal": torch.tensor(goals, dtype=torch.float32)})
    halved = ControlProtocol(
        "icml2017", tasks, steps=3, trajectories=40, scales=(1.0, 0.5, 0.5), published=NAVIGATION,
        source="Finn et al. 2017",
    )  # fmt: skip
    fewer = replace(halved, name="icml2017_20_rollouts", trajectories=20, published={})
    return [halved, fewer, replace(halved, name="icml2017_rate_kept", scales=(), published={})]


@dataclass(frozen=True)
class IcmlRobot:
    """The evaluation of a robot family by Finn et al. 2017, with the published mean returns.

    Attributes:
        fastest: Upper end of the goals, numpy's U(0, fastest), in m/s. For directions, goals below
            fastest / 2 mean backwards.
        returns: Algorithm -> mean return over the goals after 0, 1, ... adaptation steps.
        seed: Numpy's seed of the goals.
        trajectories: Rollouts per adaptation step.
        later: Factor on the learning rate of all steps after the first.
    """

    fastest: float
    returns: dict[str, tuple[float, ...]]
    seed: int = 1
    trajectories: int = 20
    later: float = 0.5

    def protocol(self, task: str) -> ControlProtocol:
        """Returns the protocol.

        Args:
            task: Name of the family's task value, "velocity" or "direction".
        """
        goals = np.random.RandomState(self.seed).uniform(0.0, self.fastest, 40)
        if task == "direction":
            goals = np.where(goals < self.fastest / 2, -1.0, 1.0)
        tasks = ControlTasks({task: torch.tensor(goals, dtype=torch.float32)})
        published = {name: dict(enumerate(means)) for name, means in self.returns.items()}
        return ControlProtocol(
            "icml2017", tasks, steps=3, trajectories=self.trajectories,
            scales=(1.0, self.later, self.later), published=published, source="Finn et al. 2017",
        )  # fmt: skip


# From github.com/cbfinn/maml_rl: goals, trajectories and rates from maml_examples/test_maml_*.py,
# returns from icml/*.pkl.
ICML_ROBOTS = {
    "HalfCheetahVelocityRllab-v1": IcmlRobot(
        2.0,
        {
            "maml": (-129.53, -78.57, -66.62, -60.78),
            "pretrained": (-158.0, -135.4, -128.5, -133.6),
            "random": (-254.8, -254.3, -246.8, -230.8),
            "oracle": (-54.47,),
        },
    ),
    "HalfCheetahDirectionRllab-v1": IcmlRobot(
        2.0,
        {
            "maml": (-50.69, 293.19, 313.48, 315.65),
            "pretrained": (-43.0, -24.8, -12.9, 19.6),
            "random": (-35.7, 21.8, 62.3, 86.2),
            "oracle": (442.69,),
        },
    ),
    "AntVelocityRllab-v1": IcmlRobot(
        3.0,
        {
            "maml": (30.58, 96.74, 100.06, 101.41),
            "pretrained": (-1.8, 6.1, 8.5, 9.5),
            "random": (-78.6, -62.8, -48.6, -35.6),
            "oracle": (107.89,),
        },
    ),
    "AntDirectionRllab-v1": IcmlRobot(
        3.0,
        {
            "maml": (8.66, 499.15, 500.68, 499.11),
            "pretrained": (3.2, 1.3, 6.5, 6.9),
            "random": (3.1, 9.3, 16.0, 26.1),
            "oracle": (524.8,),
        },
        seed=2,
        trajectories=40,
        later=0.01,
    ),
}


def icml_robots(family: TaskFamily) -> list[ControlProtocol]:
    """Returns the protocol of Finn et al. 2017 for a family of rllab's robots.

    40 goals; the first adaptation step has the training learning rate, later steps a fraction of
    it. The list is empty for other families and for episodes of other than 200 steps.
    """
    robot = ICML_ROBOTS.get(family.name)
    if robot is None or family.horizon != 200:
        return []
    return [robot.protocol("direction" if "Direction" in family.name else "velocity")]
