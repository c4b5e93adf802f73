"""Metrics of episodes: what a step reports is reduced, logged and judged as the return is."""

import math
from dataclasses import dataclass

import gymnasium
import numpy as np
import pytest
import torch

from metarl.adaptation import MAML
from metarl.errors import SettingsError, SimulationError
from metarl.evaluation.control_protocol import return_table
from metarl.evaluation.curves import adaptation_curve
from metarl.evaluation.statistics import summarise_curve
from metarl.rl import PolicyLearner, policy_for
from metarl.rl.settings import PolicyGradientSettings
from metarl.runs.eval_file import read_curves
from metarl.runs.logger import RunLogger
from metarl.sim import GymTasks, Uniform, make_vec
from metarl.sim.episode_metrics import EpisodeMetrics
from metarl.trees import map_tensors
from tests.runs.test_logger import points
from tests.sim.families import Drift

WORLDS = 5
REDUCTIONS = {"success": "any", "distance": "last", "effort": "mean"}


class Reach(gymnasium.Env):
    """Moves to a goal; reports success, and the distance at the end only."""

    observation_space = gymnasium.spaces.Box(-9, 9, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    goal = 0.5

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        self.place += 0.3 * float(action[0])
        gap = abs(self.place - self.goal)
        info = {"success": gap < 0.16, "effort": np.float32(abs(action[0])), "note": "near"}
        if self.steps == 4:
            info["distance"] = np.array([gap])
        return np.array([self.place], np.float32), -gap, False, False, info


def family(**settings):
    settings = {"horizon": 4, "metrics": REDUCTIONS, **settings}
    return GymTasks(Reach, {"goal": Uniform(0.2, 1.2)}, **settings)


@dataclass(frozen=True)
class Measured(Drift):
    """Measures its place."""

    metrics = {"success": "any", "place": "last", "mean": "mean"}  # noqa: RUF012

    def measure(self, before, actions, after, tasks):
        place = after["place"]
        odd = after["steps"] % 2 == 1
        return {"success": place - 0.8, "place": place.masked_fill(odd, math.nan), "mean": place}


def by_hand(rows, reduction):
    rows = [r for r in rows if not math.isnan(r)]
    if not rows:
        return math.nan
    return {"any": float(max(rows) > 0), "last": rows[-1], "mean": sum(rows) / len(rows)}[reduction]


def test_reductions_step_by_step_and_of_whole_episodes_are_those_by_hand(generator):
    numbers = torch.randn(WORLDS, 6, generator=generator)
    numbers[torch.rand(WORLDS, 6, generator=generator) < 0.3] = math.nan
    numbers[0] = math.nan
    lengths = torch.tensor([6, 1, 3, 6, 2])
    over = torch.arange(6) >= lengths.unsqueeze(1)
    reductions = {"a": "any", "b": "last", "c": "mean"}
    stepped = EpisodeMetrics(reductions, WORLDS, torch.device("cpu"))
    stepped.begin(None)
    for t in range(6):
        stepped.add_step(dict.fromkeys(reductions, numbers[:, t]), over[:, t])
    whole = EpisodeMetrics(reductions, WORLDS, torch.device("cpu"))
    whole.add_episode(dict.fromkeys(reductions, numbers), over)
    for name, reduction in reductions.items():
        expected = [
            by_hand(n[:k].tolist(), reduction) for n, k in zip(numbers, lengths, strict=True)
        ]
        for found in (stepped, whole):
            torch.testing.assert_close(found.values()[name], torch.tensor(expected), equal_nan=True)
    stepped.begin(torch.arange(WORLDS) == 1)
    assert stepped.values()["c"].isnan().tolist() == [True, True, False, False, False]


def test_a_family_of_tensors_measures_the_same_in_episodes_and_steps():
    envs = [make_vec(Measured(), WORLDS, device="cpu", autoreset="disabled") for _ in range(2)]
    whole, stepped = envs
    episode = whole.episode(lambda _: torch.linspace(-1, 1, WORLDS).unsqueeze(1))
    stepped.run_step_by_step(lambda _: torch.linspace(-1, 1, WORLDS).unsqueeze(1))
    assert episode.over().any()
    first, second = whole.episode_metrics(), stepped.episode_metrics()
    for name in Measured.metrics:
        torch.testing.assert_close(first[name], second[name], equal_nan=True)
    reached = episode.observations[:, 1:, 0].amax(1) > 0.8
    assert torch.equal(first["success"], reached.float()) and reached.any() and not reached.all()


@pytest.mark.parametrize("autoreset", ["same_step", "next_step", "disabled"])
@pytest.mark.parametrize("workers", [0, 2])
def test_numbers_of_info_are_metrics(autoreset, workers):
    if workers and autoreset != "disabled":
        pytest.skip("one mode is enough for processes")
    env = make_vec(family(), WORLDS, device="cpu", autoreset=autoreset, workers=workers)
    env.reset(seed=0)
    goals = env.get_tasks()["goal"]
    infos = [env.step(torch.full((WORLDS, 1), 0.5))[4]["metrics"] for _ in range(4)]
    places = 0.15 * torch.arange(1, 5)
    gaps = (places.unsqueeze(1) - goals).abs()
    found = infos[-1]
    torch.testing.assert_close(found["success"], (gaps < 0.16).any(0).float())
    torch.testing.assert_close(found["distance"], gaps[-1])
    torch.testing.assert_close(found["effort"], torch.full((WORLDS,), 0.5))
    assert infos[0]["distance"].isnan().all()
    torch.testing.assert_close(infos[0]["success"], (gaps[0] < 0.16).float())
    env.close()


def learner_of(family, generator, trajectories=3):
    settings = PolicyGradientSettings(trajectories=trajectories)
    policy = policy_for(family, generator, (8,), normalize_observations=False)
    return PolicyLearner(MAML(policy, 0.1), family, settings)


def test_metrics_are_in_rollouts_curves_logs_and_tables(generator, tmp_path):
    tasks = family()
    learner = learner_of(tasks, generator)
    inputs = learner.collect(tasks.sample(2, generator), generator, 0)
    rollouts = inputs.experience[-1].rollouts
    gaps = (rollouts.observations[..., 0] - inputs.tasks.values["goal"].view(2, 1, 1)).abs()
    last = (rollouts.final_observations[..., 0] - inputs.tasks.values["goal"].view(2, 1)).abs()
    torch.testing.assert_close(rollouts.metrics["distance"], last)
    hit = torch.cat([gaps[..., 1:], last.unsqueeze(2)], 2) < 0.16
    torch.testing.assert_close(rollouts.metrics["success"], hit.any(2).float())
    trained = learner(inputs).metrics
    torch.testing.assert_close(trained["train/distance/step_1"], last.mean(1))
    curve = adaptation_curve(learner, tasks, num_tasks=12, steps=1, generator=generator)
    assert list(curve.others) == list(REDUCTIONS)
    assert curve.others["distance"].shape == curve.values.shape == (2, 12)
    with RunLogger(tmp_path) as logger:
        summaries = logger.curve(curve, 3)
    lines = read_curves(tmp_path)
    assert [line["metric"] for line in lines] == ["return", *REDUCTIONS]
    mean = curve.others["distance"][1].mean().item()
    assert lines[2]["mean"][1] == pytest.approx(mean, rel=1e-5)
    assert points(tmp_path, "by_adaptation_steps/eval_test/distance")[1] == (1, mean)
    lowest = curve.values[1].sort().values[:2].mean().item()  # a tenth of 12, rounded up
    assert lines[0]["lowest_tenth"][1] == pytest.approx(lowest, rel=1e-5)
    others = {
        "distance": {"test": summarise_curve(curve.others["distance"], generator)},
    }
    table = return_table({"test": summaries}, {}, "maml", None, others)
    cells = [list(column.cells) for column in table.columns]
    assert [str(column.header) for column in table.columns] == [
        "steps", "test (12)", "worst", "distance", "worst",
    ]  # fmt: skip
    assert cells[2][1] == f"{lowest:.2f}"
    assert cells[3][1].startswith(f"{mean:.2f} ±")


def test_mistakes_are_told(generator):
    with pytest.raises(SettingsError, match="Unknown reduction of the metric 'success' 'most'"):
        family(metrics={"success": "most"})
    with pytest.raises(SettingsError, match="Expected names of metrics of 1 to 60"):
        family(metrics={"return": "any"})
    with pytest.raises(
        SettingsError, match=r"""metrics as {"success": "any"}.*got \['success'\]"""
    ):
        family(metrics=["success"])
    for name, message in (
        ("sucess", r"number 'sucess' in `info`.*Did you mean 'success'\? .*has success, effort"),
        ("note", "Expected one number 'note' in `info`, got 'near'"),
    ):
        env = make_vec(family(metrics={name: "any"}), 2, device="cpu", autoreset="disabled")
        env.reset(seed=0)
        with pytest.raises(SimulationError, match=message):
            for _ in range(4):
                env.step(torch.zeros(2, 1))


def test_a_saved_state_keeps_the_metrics_of_the_running_episodes():
    env, other = (make_vec(family(), WORLDS, device="cpu") for _ in range(2))
    env.reset(seed=0)
    env.step(torch.full((WORLDS, 1), 0.5))
    other.load_state_dict(map_tensors(torch.Tensor.clone, env.state_dict()))
    first, second = (e.step(torch.full((WORLDS, 1), 0.5))[4]["metrics"] for e in (env, other))
    for name in REDUCTIONS:
        torch.testing.assert_close(first[name], second[name], equal_nan=True)
