"""Adapters of exported adaptations, run by ONNX Runtime."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.deploy.adapter import RECURRENT, AdaptationReport, Adapter, Origin
from metarl.deploy.adapters.adapted_policy import BEYOND
from metarl.deploy.adapters.experience import check_steps, finite_step, warn_of_equal_returns
from metarl.deploy.adapters.experience import taken as recorded
from metarl.deploy.adapters.inputs import in_training_order, warn_of_ranges
from metarl.deploy.experience.episode_log import EpisodeLog
from metarl.deploy.experience.log_weights import (
    LOG_OPTIONS,
    check_log_probs,
    warn_of_bounds,
    warn_of_lengths,
    warn_of_times,
)
from metarl.deploy.experience.recorder import Acted, Recorder
from metarl.deploy.experience.trajectories import Trajectory, read_trajectories
from metarl.deploy.exported.episodes import (
    counted_from_0,
    firsts_of,
    is_given,
    padded_flags,
    rollouts_of,
    spaces_of,
    trajectory_of,
)
from metarl.deploy.exported.runtime import OnnxAdaptation
from metarl.errors import (
    CheckpointError,
    NonFiniteError,
    SettingsError,
    ShapeError,
    short_repr,
)
from metarl.ranges import SEED, check_int
from metarl.registry import check_choice
from metarl.training.data_ranges import check_ranges

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
        if self.program.kind == "stream":
            raise SettingsError(
                "Expected an export of a policy or of a supervised learner; this one reads "
                f"streams: OnnxAdaptation({str(folder)!r}).read(inputs, label)."
            )
        self.explore = explore
        self.origin = Origin(str(folder), 0, _ranges(self.program.metadata, folder))
        if not self._supervised:
            self._spaces = spaces_of(self.program.metadata)
            self._firsts = firsts_of(self.program.metadata)
        self._generator = np.random.default_rng(check_int("seed", seed, SEED) % 2**64)
        self.reset()

    def reset(self) -> None:
        self.program.reset()
        self._recorder = Recorder(keeps=self.program.kind == "control")
        self._last: tuple[float, bool] = (0.0, False)

    def state(self) -> dict[str, Tensor]:
        """Returns the adapted weights, or what a metric or memory learner remembers of its task.

        Raises:
            SettingsError: A metric or memory learner has no task yet, or the policy is recurrent.
        """
        if self.program.kind == "recurrent":
            raise SettingsError(RECURRENT)
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

    def rule_state(self) -> dict[str, Tensor]:
        if self.program.kind != "control":
            return {}
        return {n: torch.from_numpy(v.copy()) for n, v in self.program.state.items()}

    def load_rule_state(self, state: dict[str, Tensor]) -> None:
        super().load_rule_state(state)
        self.program.state.update({n: t.numpy().copy() for n, t in state.items()})

    def notes(self) -> dict[str, str]:
        return {"steps": str(self.program.steps)}

    def load_notes(self, notes: dict[str, str]) -> None:
        self.program.steps = int(notes.get("steps", 0))

    def _warn(self, values: np.ndarray, name: str, what: str) -> None:
        """Warns of values [N, *] that do not fit those of training, where the export has these."""
        if values.ndim > 1 and values.dtype.kind == "f" and len(values):
            warn_of_ranges(values.reshape(len(values), -1), self.origin.ranges.get(name), what)

    @property
    def _supervised(self) -> bool:
        """Whether the learner predicts; policies act."""
        return self.program.kind in ("supervised", "support")

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
        scale: float | None = None,
        **options: Any,
    ) -> AdaptationReport:
        """Adapts to examples from the start, or a policy to the observed steps or to a log.

        Args:
            support: Supervised: inputs [N, *input], or a pair of inputs and targets. Policies: None
                for what `observe` was given since the last adaptation, or logged trajectories, as
                `ControlAdapter.adapt` takes them, of flat observations and actions.
            targets: Supervised: targets [N, *], or labels [N] from 0.
            steps: Steps on these data; None: as in training for examples, 1 for a policy. Metric
                and memory learners ignore it.
            scale: Policies: see `ControlAdapter.adapt`.
            **options: Supervised: `mask`, true for the real elements of padded sequences, [N, L];
                for prototypes of descriptions, `descriptions` [way, D] and `described` [way], with
                labels that are their indices, and with or without examples. Policies on logs:
                `behaviour`, `correction`, `least_effective`; see `weigh`.

        Raises:
            SettingsError: There is nothing to adapt on, the policy is recurrent, or the effective
                sample of a log is too small.
            ShapeError: The data have another shape. After any error, the task is the one before.
        """
        started = time.perf_counter()
        if self._supervised:
            report = self._adapt_to_examples(support, targets, steps, options)
        else:
            report = self._adapt_to_episodes(support, steps, scale, options)
        return replace(report, seconds=time.perf_counter() - started)

    def _adapt_to_examples(
        self, support: Any, targets: Any, steps: int | None, options: dict[str, Any]
    ) -> AdaptationReport:
        if targets is None and isinstance(support, tuple | list) and len(support) == 2:
            support, targets = support
        targets = self._ordered(targets, "target_columns", "targets")
        given = {"inputs": self._ordered(support), "targets": targets, **options}
        batch: dict[str, Any] = {n: np.asarray(v) for n, v in given.items() if v is not None}
        if "inputs" in batch:
            self._warn(batch["inputs"], "inputs", "support inputs")
        usual = max(1, self.program.metadata["adaptation"]["steps"])  # 0 of a pretrained start
        taken = usual if steps is None or self._reads else check_int("steps", steps)
        program = self.program
        before = program.theta, program.state, program.steps
        self.reset()
        try:
            losses = [program.adapt(**batch) for _ in range(taken)]
        except BaseException:
            program.theta, program.state, program.steps = before
            raise
        return AdaptationReport(taken, len(batch.get("targets", ())), loss_before=losses[0])

    def _adapt_to_episodes(
        self, logged: Any, steps: int | None, scale: float | None, options: dict[str, Any]
    ) -> AdaptationReport:
        if self.program.kind == "recurrent":
            raise SettingsError("A recurrent policy adapts by acting: call `act`, no `adapt`.")
        if logged is None and options:
            raise SettingsError(f"Expected trajectories for the options {', '.join(options)}.")
        for name in options:
            check_choice("option", name, LOG_OPTIONS)
        behaviour = options.pop("behaviour", None)
        taken = check_int("steps", 1 if steps is None else steps)
        logs: list[EpisodeLog] = []
        if logged is None:
            logs = recorded(self._recorder, self.program.steps)
            batch = rollouts_of([trajectory_of(log) for log in logs])
            batch["counts"] = padded_flags([log.sampled for log in logs])
            warn_of_equal_returns(logs)
        else:
            found = self._read(logged)
            seen = np.concatenate([one.observations for one in found])
            self._warn(seen, "observations", "observations of the log")
            batch = rollouts_of(found)
            self._say_who_acted(batch, found, behaviour)
            warn_of_equal_returns(found)
        trained = self.program.metadata["adaptation"]["steps"]
        usual = BEYOND if 0 < trained <= self.program.steps else 1.0
        try:
            result = self.program.adapt_on_log(
                steps=taken, scale=usual if scale is None else scale, options=options, **batch
            )
        except BaseException:
            self._recorder.give_back(logs)
            raise
        effective = None if logged is None else result.effective
        lengths = batch["lengths"]
        return AdaptationReport(taken, int(lengths.sum()), len(lengths), effective=effective)

    def _read(self, logged: Any) -> list[Trajectory]:
        """Returns the episodes of a log, with choices counted from 0.

        Raises:
            SettingsError: There is a single step.
        """
        found = read_trajectories(logged, self._spaces)
        check_steps(sum(len(one.rewards) for one in found))
        return counted_from_0(found, self.program.metadata)

    def _say_who_acted(
        self, batch: dict[str, Any], found: Sequence[Trajectory], behaviour: str | None
    ) -> None:
        """Puts the log-densities of whoever acted into a batch."""
        warn_of_bounds(self._spaces, found)
        environment = self.program.metadata["environment"]
        warn_of_lengths(found, environment["horizon"])
        warn_of_times(found, environment.get("step_seconds"))
        if behaviour is None:
            check_log_probs(found)
            return
        check_choice("behaviour", behaviour, ("start", "adapted"))
        batch["log_probs"] = self.program.log_probs_of(batch, start=behaviour == "start")

    def predict(self, inputs: Any, *, mask: Any = None) -> np.ndarray:
        """Returns the outputs of the adapted network, [B, *]; see `OnnxAdaptation.predict`."""
        values = np.asarray(self._ordered(inputs))
        self._warn(values, "inputs", "inputs")
        own = None if mask is None else np.asarray(mask)
        return self.program.predict(values, mask=own)

    def _ordered(self, data: Any, columns: str = "columns", what: str = "inputs") -> Any:
        """Returns the columns of training of a table, in their order."""
        return in_training_order(data, self.origin.ranges.get(columns), what)

    def act(self, observation: Any, explore: bool | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Returns the action for an observation [O]; samples are clipped by the environment.

        Args:
            observation: The observation.
            explore: Whether to sample; None: the attribute.
        """
        explore = self.explore if explore is None else explore
        generator = self._generator if explore else None
        row, acted = _row(observation), self._recorder.acted
        if self.program.kind == "recurrent":
            if acted is not None and np.array_equal(acted.row, row):
                self.program.trial = self._trial  # it is asked again: no other step
            self._trial = self.program.trial
        action = self.program.act(row, *self._last, generator=generator)
        if row.ndim == 1:
            own = action if action.ndim else int(action)
            self._recorder.choose(Acted(row, own, own, explore, self.program.steps))
        # Choices of the environment may begin with another number than 0.
        return action + self._firsts

    def observe(
        self, observation: Any, action: Any, reward: float, terminated: bool, truncated: bool
    ) -> None:
        """Records what became of the action that `act` chose.

        Args:
            observation: The observation after it, [O].
            action: The action of `act`, as it is or within the bounds, or None; another one is
                refused.
            reward: Its reward.
            terminated: Whether the episode terminated.
            truncated: Whether it was cut off.

        Raises:
            SettingsError: `act` did not choose the action.
            ShapeError: The observation has another shape.
            SimulationError: The reward is no finite number, or an end is neither true nor false.
            NonFiniteError: The observation is infinite or NaN.
        """
        reward = finite_step(observation, reward, terminated, truncated)
        after, acted = _row(observation), self._recorder.acted
        if acted is None or not (action is None or self._is_given(action, acted)):
            raise SettingsError(
                f"Expected the action that `act` returned, as it is or within the bounds, got "
                f"{action!r}; {_FLAT}. Open the run itself for actions of others."
            )
        if after.shape != acted.row.shape:
            raise ShapeError(
                f"Expected an observation of {len(acted.row)} numbers, got {list(after.shape)}."
            )
        if not np.isfinite(after).all():
            raise NonFiniteError(
                "Expected a finite observation, got NaN or infinity: observe the step with the "
                "last finite one, or open the run itself, whose adapter does."
            )
        self._recorder.add(acted, reward, after)
        ended = bool(terminated or truncated)
        self._last = (reward, ended)
        if ended:
            self._recorder.end(bool(terminated))

    def abandon(self) -> None:
        """Ends the episode without a return, as when somebody resets the robot in between."""
        self._recorder.abandon()
        self._last = (self._last[0], True)

    def _is_given(self, action: Any, acted: Acted) -> bool:
        return is_given(action, acted.given + self._firsts, self.program.metadata)


def _row(observation: Any) -> np.ndarray:
    """Returns a copy of an observation as float32.

    Raises:
        ShapeError: It is not of numbers.
    """
    try:
        return np.array(observation, np.float32)
    except (ValueError, TypeError) as error:
        raise ShapeError(
            f"Expected an observation of numbers, got {short_repr(observation, 60)}; {_FLAT}."
        ) from error


def _ranges(metadata: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Returns the ranges of the training data; nothing for exports without them.

    Raises:
        CheckpointError: They are not usable.
    """
    ranges = metadata.get("data", {})
    try:
        check_ranges(ranges)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"The ranges of training in {folder} are not usable ({error!r})."
        ) from error
    return ranges
