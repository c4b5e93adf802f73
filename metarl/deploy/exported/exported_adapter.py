"""Adapters of exported adaptations, run by ONNX Runtime."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.deploy.adapter import AdaptationReport, Adapter, Origin
from metarl.deploy.exported.runtime import OnnxAdaptation
from metarl.errors import CheckpointError, SettingsError, ShapeError
from metarl.ranges import check_int

_FLAT = "exported graphs take flat observations and give flat actions, as adaptation.json says"


class ExportedAdapter(Adapter):
    """An exported adaptation as an adapter; see `OnnxAdaptation` for what the graphs take.

    Observations, actions and inputs are flat arrays, as in adaptation.json: units, bounds and
    normalisation are in the graphs, but composite spaces are not. Safety limits are not either:
    they belong to `ControlAdapter`.

    Args:
        folder: The folder of the export; its files are checked.
        explore: Whether policies act by samples, which an adaptation needs.
        seed: Seed of the samples.

    Raises:
        CheckpointError: The folder was altered, or is of a newer version.
        SettingsError: The extra "onnx" is not installed.
    """

    def __init__(self, folder: Path, *, explore: bool = True, seed: int = 0) -> None:
        self.program = OnnxAdaptation(folder)
        self.explore = explore
        self.origin = Origin(str(folder), 0, {})
        self._generator = np.random.default_rng(seed)
        self.reset()

    def reset(self) -> None:
        self.program.reset()
        self._episodes: list[_Episode] = [_Episode()]
        self._last: tuple[float, bool] = (0.0, False)

    def state(self) -> dict[str, Tensor]:
        """Returns the adapted weights, or what a metric or memory learner remembers of its task.

        Raises:
            SettingsError: A metric or memory learner has no task yet.
        """
        prefix, values = self._kept()
        if self._reads and not values:
            raise SettingsError("Expected a task: call `adapt(support)` first.")
        return {n.removeprefix(prefix): torch.from_numpy(v.copy()) for n, v in values.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        if self._reads:
            try:
                self.program.check_state({f"state.{n}": t.numpy() for n, t in state.items()})
            except ShapeError as error:
                raise CheckpointError(f"This is no state of this learner: {error}") from error
        else:
            self._check_state(state, self.state())
        self.reset()
        prefix, values = self._kept()
        values.update({prefix + n: t.numpy().copy() for n, t in state.items()})

    @property
    def _reads(self) -> bool:
        """Whether the learner reads its support set once, as metric and memory learners do."""
        return self.program.kind == "support"

    def _kept(self) -> tuple[str, dict[str, np.ndarray]]:
        """Returns what an adaptation changes, by names with a prefix, and the prefix."""
        return ("state.", self.program.state) if self._reads else ("theta.", self.program.theta)

    def adapt(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        support: Any = None,
        targets: Any = None,
        *,
        steps: int | None = None,
        mask: Any = None,
        descriptions: Any = None,
        described: Any = None,
    ) -> AdaptationReport:
        """Adapts to examples from the start, or a policy to the observed steps.

        Args:
            support: Supervised: inputs [N, *input], or a pair of inputs and targets. Policies adapt
                on what `observe` was given since the last adaptation.
            targets: Supervised: targets [N, *], or labels [N] from 0.
            steps: Steps on these data; None: as in training for examples, 1 for a policy. Metric
                and memory learners ignore it.
            mask: Supervised: true for the real elements of padded sequences, [N, L].
            descriptions: Prototypes of descriptions: numbers that describe each class, [way, D].
                Labels are their indices, and there may be no examples.
            described: Which classes have a description, [way]; None: all.

        Raises:
            SettingsError: There is nothing to adapt on, or the policy is recurrent.
            ShapeError: The data have another shape.
        """
        started = time.perf_counter()
        supervised = self.program.kind in ("supervised", "support")
        batch: dict[str, Any]
        if supervised:
            if targets is None and isinstance(support, tuple | list) and len(support) == 2:
                support, targets = support
            given = {
                "inputs": support, "targets": targets, "mask": mask,
                "descriptions": descriptions, "described": described,
            }  # fmt: skip
            batch = {n: np.asarray(v) for n, v in given.items() if v is not None}
            count, episodes = len(batch.get("targets", ())), 0
            self.reset()
        else:
            if support is not None:
                raise SettingsError(
                    "An exported policy adapts to what `observe` was given; open its run to adapt "
                    "to logged trajectories."
                )
            logs = [log for log in self._episodes if log.rewards]
            batch, count, episodes = _rollouts(logs), sum(len(e.rewards) for e in logs), len(logs)
        usual = self.program.metadata["adaptation"]["steps"] if supervised else 1
        taken: int = usual if steps is None or self._reads else check_int("steps", steps)
        losses = [self.program.adapt(**batch) for _ in range(taken)]
        if not supervised:
            self._episodes = [_Episode()]
        seconds = time.perf_counter() - started
        before = losses[0] if supervised else None
        return AdaptationReport(taken, count, episodes, loss_before=before, seconds=seconds)

    def predict(self, inputs: Any, *, mask: Any = None) -> np.ndarray:
        """Returns the outputs of the adapted network, [B, *]; see `OnnxAdaptation.predict`."""
        own = None if mask is None else np.asarray(mask)
        return self.program.predict(np.asarray(inputs), mask=own)

    def act(self, observation: Any, explore: bool | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Returns the action for an observation [O]; samples are clipped by the environment.

        Args:
            observation: The observation.
            explore: Whether to sample; None: the attribute.
        """
        explore = self.explore if explore is None else explore
        generator = self._generator if explore else None
        row = np.asarray(observation, np.float32)
        action = self.program.act(row, *self._last, generator=generator)
        episode = self._episodes[-1]
        episode.seen, episode.chosen = row, action
        return action

    def observe(
        self, observation: Any, action: Any, reward: float, terminated: bool, truncated: bool
    ) -> None:
        """Records what became of the action that `act` chose.

        Args:
            observation: The observation after it, [O].
            action: The action of `act`, or None; another one is refused.
            reward: Its reward.
            terminated: Whether the episode terminated.
            truncated: Whether it was cut off.

        Raises:
            SettingsError: `act` did not choose the action.
        """
        episode = self._episodes[-1]
        chosen = episode.chosen
        if chosen is None or not (action is None or np.array_equal(action, chosen)):
            raise SettingsError(
                f"Expected the action that `act` returned, got {action!r}; {_FLAT}. Open the run "
                "itself for actions of others."
            )
        episode.add(float(reward), np.asarray(observation, np.float32))
        ended = bool(terminated or truncated)
        self._last = (float(reward), ended)
        if ended:
            episode.terminated = bool(terminated)
            self._episodes.append(_Episode())


class _Episode:
    """The steps of an episode, or the part since the last adaptation."""

    def __init__(self) -> None:
        self.observations: list[np.ndarray] = []
        self.actions: list[np.ndarray] = []
        self.rewards: list[float] = []
        self.seen: np.ndarray | None = None
        self.chosen: np.ndarray | None = None
        self.terminated = False

    def add(self, reward: float, after: np.ndarray) -> None:
        """Adds a step from `seen` by `chosen`."""
        assert self.seen is not None and self.chosen is not None
        if not self.observations:
            self.observations.append(self.seen)
        self.observations.append(after)
        self.actions.append(self.chosen)
        self.rewards.append(reward)
        self.chosen = None


def _rollouts(logs: Sequence[_Episode]) -> dict[str, np.ndarray]:
    """Returns episodes as the batch of a step, padded to the longest.

    Raises:
        SettingsError: There are none.
        ShapeError: Their observations or actions have different shapes.
    """
    if not logs:
        raise SettingsError("Expected steps to adapt on: call `act` and `observe` first.")
    longest = max(len(log.rewards) for log in logs)

    def padded(rows: Sequence[Any], length: int) -> np.ndarray:
        table = np.stack(rows)
        return np.pad(table, [(0, length - len(table)), *[(0, 0)] * (table.ndim - 1)])

    try:
        return {
            "observations": np.stack([padded(log.observations, longest + 1) for log in logs]),
            "actions": np.stack([padded(log.actions, longest) for log in logs]),
            "rewards": np.stack([padded(log.rewards, longest) for log in logs]).astype(np.float32),
            "lengths": np.array([len(log.rewards) for log in logs]),
            "terminated": np.array([log.terminated for log in logs]),
        }
    except ValueError as error:
        raise ShapeError(f"Expected observations and actions of one shape: {error}.") from error
