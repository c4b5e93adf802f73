"""The parameters of a policy that adapts: versions, adaptations in the background, roll-back."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple
from zlib import crc32

import torch

from metarl.adaptation.update_rules import State
from metarl.deploy.adapter import AdaptationReport
from metarl.deploy.export.state import flatten, unflatten
from metarl.errors import CheckpointError, ExportError, NonFiniteError, SettingsError
from metarl.models.base import Params, task_params
from metarl.rl.experience import Experience
from metarl.trees import map_tensors

BEYOND = 0.5
"""Factor on the inner loss of steps after those of training."""


class Candidate(NamedTuple):
    """Parameters that an adaptation has computed.

    Attributes:
        params: The parameters, [1, *shape] per name.
        state: State of the update rule.
        report: What the adaptation did.
    """

    params: Params
    state: State
    report: AdaptationReport


class AdaptedPolicy:
    """The parameters of one task, from the trained start on.

    Args:
        learner: The `PolicyLearner` that was trained.

    Attributes:
        params: The parameters that act, [1, *shape] per name, detached.
        version: Their number; 0 is the start.
        versions: All parameters that acted since the last adaptation, by number.
    """

    def __init__(self, learner: Any) -> None:
        self._learner = learner
        self._pool: ThreadPoolExecutor | None = None
        self._running: Future[AdaptationReport] | None = None
        self._newest = 0
        self._resets = 0
        self.reset()

    def reset(self) -> None:
        """Goes back to the trained start; an adaptation that is still running is given up."""
        start = task_params(self._learner.policy, 1)
        self.params: Params = map_tensors(torch.Tensor.detach, start)
        self._state: State | None = None
        self.version, self._steps = 0, 0
        self.versions = {0: self.params}
        self._resets += 1
        self._ready: tuple[int, Candidate] | None = None
        self._running = None
        self._waits = False

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out what a thread still computes: a copy is not given it."""
        return {**vars(self), "_pool": None, "_running": None}

    @property
    def ready(self) -> Candidate | None:
        """The result of an adaptation in the background, to be installed; or None."""
        found = self._ready
        return None if found is None or self._waits or found[0] != self._resets else found[1]

    @ready.deleter
    def ready(self) -> None:
        self._ready = None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Lets results of adaptations in the background wait for the end of the block."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    def compute(self, experience: Experience, report: AdaptationReport, steps: int) -> Candidate:
        """Adapts from the parameters that act, and changes nothing.

        Raises:
            NonFiniteError: A parameter is no longer finite.
        """
        started = time.perf_counter()
        losses: list[float] = []
        step = None
        for step in self._learner.adapt_on(experience, steps, self.params, self._state):
            if step.loss is not None:
                losses.append(float(step.loss))
        assert step is not None
        params = map_tensors(lambda p: p.detach().clone(), step.params)
        if not all(bool(p.isfinite().all()) for p in params.values()):
            raise NonFiniteError(
                "The adapted parameters are not finite; the old ones still act. Are the rewards "
                "on the scale of training?"
            )
        report = replace(
            report, steps=steps, loss_before=losses[0], seconds=time.perf_counter() - started
        )
        return Candidate(params, map_tensors(torch.Tensor.detach, step.state), report)

    @property
    def usual_scale(self) -> float:
        """Factor on the inner loss of the next step: 0.5 after as many as in training."""
        trained = self._learner.adaptation.steps
        return BEYOND if 0 < trained <= self._steps else 1.0

    def install(self, params: Params, state: State | None, steps: int = 0) -> None:
        """Lets other parameters act from now on, after `steps` further adaptation steps."""
        self._steps += steps
        self._newest += 1
        self.version, self.params, self._state = self._newest, params, state
        self.versions[self.version] = params

    def notes(self) -> dict[str, str]:
        """Returns what saved weights need to act and to adapt further, texts by name."""
        return {"units": self._units, "steps": str(self._steps)}

    def check_notes(self, notes: dict[str, str]) -> None:
        """Raises CheckpointError for weights that see observations in other units.

        Those of earlier versions do not say their units.
        """
        if notes.get("units", self._units) != self._units:
            raise CheckpointError(
                "Expected weights that were adapted from this checkpoint, these are from "
                f"{notes.get('adapted_from')}, which standardised observations or actions by other "
                "numbers: open that one with them, or adapt again."
            )

    def load_notes(self, notes: dict[str, str]) -> None:
        """Goes on counting adaptation steps; raises ValueError for notes that are damaged."""
        self._steps = int(notes.get("steps", 0))

    @property
    def rule_state(self) -> dict[str, torch.Tensor]:
        """The state of the update rule, tensors by name, from which it adapts further. Settable."""
        state = self._learner.rule.init(self.params) if self._state is None else self._state
        try:
            return flatten(state)
        except ExportError as error:
            warnings.warn(
                "The state of the update rule is not saved, so that weights that are opened adapt "
                f"further as from a first step. {error}",
                RuntimeWarning,
                stacklevel=4,
            )
            return {}

    @rule_state.setter
    def rule_state(self, state: dict[str, torch.Tensor]) -> None:
        self._state = unflatten(state, self._learner.rule.init(self.params))

    @property
    def _units(self) -> str:
        """Checksum of the maps of observations and actions."""
        units = self._learner.policy.units
        values = {} if units is None else units.state_dict()
        checksum = 0
        for name in sorted(values):
            checksum = crc32(values[name].cpu().numpy().tobytes(), checksum)
        return f"{checksum:08x}"

    def forget_versions(self) -> None:
        """Forgets parameters whose data have been used."""
        self.versions = {self.version: self.params}

    def check_idle(self) -> None:
        """Raises SettingsError while an adaptation is running, or its result is not used yet."""
        if self.ready is not None or (self._running is not None and not self._running.done()):
            raise SettingsError(
                "Expected one adaptation at a time: one is running in the background, or its "
                "result waits for the next `act`. Wait for its future, `future.result()`, and act."
            )

    def in_background(
        self, experience: Experience, report: AdaptationReport, steps: int, events: list[str]
    ) -> Future[AdaptationReport]:
        """Computes in a thread; the result is in `ready` when the future is done.

        Args:
            experience: See `compute`.
            report: See `compute`.
            steps: See `compute`.
            events: Takes a sentence if it fails, as nobody may ask the future.
        """
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, "metarl-adaptation")

        resets = self._resets

        def compute() -> AdaptationReport:
            try:
                candidate = self.compute(experience, report, steps)
            except Exception as error:
                events.append(f"An adaptation in the background failed: {error}")
                raise
            self._ready = resets, candidate
            return candidate.report

        self._running = self._pool.submit(compute)
        return self._running
