"""Exported adaptations run by ONNX Runtime, without the learner that they came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from metarl.deploy.export.files import read_metadata
from metarl.deploy.exported.logs import LogResult, check_lengths, horizon_of, log_inputs, padded
from metarl.deploy.exported.ports import check_sizes, checked_input
from metarl.deploy.exported.streams import stream_inputs
from metarl.deploy.exported.support import support_inputs
from metarl.errors import (
    CheckpointError,
    MetarlError,
    NonFiniteError,
    SettingsError,
    ShapeError,
)
from metarl.extras import import_extra
from metarl.ranges import POSITIVE, check_int, check_number, user_path

Array = np.ndarray
Arrays = dict[str, np.ndarray]


class OnnxAdaptation:
    """An exported adaptation: theta, the state of the rule, and the graphs that use them.

    Example:
        >>> learner = OnnxAdaptation("exported")  # doctest: +SKIP
        >>> learner.adapt(inputs=inputs, targets=targets)  # doctest: +SKIP
        >>> learner.predict(new_inputs)  # doctest: +SKIP

    Args:
        folder: The folder that `metarl export RUN FOLDER --to onnx --with adaptation` wrote. The
            SHA-256 of every file is checked.
        threads: Threads of ONNX Runtime.

    Attributes:
        metadata: The content of adaptation.json.
        theta: The parameters that adapt, by their names in the graphs.
        state: The state of the update rule, of a recurrent policy, or what a metric or memory
            learner remembers of its support set.
        steps: Steps taken since the start.

    Raises:
        CheckpointError: The folder is no exported adaptation for ONNX, was altered, or is of a
            newer version.
        SettingsError: The extra "onnx" is not installed.
    """

    def __init__(self, folder: Path | str, threads: int = 1) -> None:
        folder = user_path(folder, "folder")
        self.metadata = read_metadata(folder)
        if self.metadata.get("runtime") != "onnx":
            raise CheckpointError(
                f"Expected an export with --to onnx, {folder} is one to "
                f"{self.metadata.get('runtime')}."
            )
        runtime = import_extra("onnxruntime", "onnx")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1

        def opened(name: str) -> Any:
            path = str(folder / name)
            return runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

        graphs = self.metadata["graphs"]
        self._sessions = {name: opened(graph["file"]) for name, graph in graphs.items()}
        self._start: Arrays = {}
        if "start.onnx" in self.metadata["sha256"]:
            session = opened("start.onnx")
            names = [output.name for output in session.get_outputs()]
            self._start = dict(zip(names, session.run(names, {}), strict=True))
        self._previous: Arrays = {}
        self.theta: Arrays = {}
        self.state: Arrays = {}
        self.steps = 0
        self.reset()

    @property
    def kind(self) -> str:
        """What was exported: "supervised", "support", "control", "recurrent" or "stream"."""
        return self.metadata["kind"]

    @property
    def trial(self) -> tuple[Arrays, Arrays, int]:
        """The memory of a recurrent policy, its last action, and the steps so far. Settable."""
        return self.state, self._previous, self.steps

    @trial.setter
    def trial(self, trial: tuple[Arrays, Arrays, int]) -> None:
        self.state, self._previous, self.steps = trial

    def reset(self) -> None:
        """Returns to the start: forgets the adaptation, or the trial of a recurrent policy."""
        self.theta = {n: v for n, v in self._start.items() if n.startswith("theta.")}
        self.state = {n: v for n, v in self._start.items() if n.startswith("state.")}
        self._previous, self.steps = {}, 0

    def adapt(self, *, generator: np.random.Generator | None = None, **batch: Any) -> float | None:
        """Takes one adaptation step on a batch; a metric or memory learner reads its support set.

        Args:
            generator: Draws the order in which a memory learner reads the examples; None: the seed
                is 0.
            **batch: The batch by the names of adaptation.json: `inputs` and `targets`; or
                `observations` [N, H + 1, O], `actions` [N, H, *], `rewards` [N, H], `lengths` [N]
                and `terminated` [N] of rollouts of the present policy, in the environment's units.
                Shorter rollouts are padded up to H.

        Returns:
            The loss of the examples before the step, or the mean return of the rollouts; None for
            metric and memory learners.

        Raises:
            SettingsError: A recurrent policy adapts by acting.
            ShapeError: A part of the batch is missing, or has another shape or type.
            NonFiniteError: The step would make theta infinite or NaN, and is not taken.
        """
        if self.kind == "support":
            generator = generator or np.random.default_rng(0)
            self._take(self._run("adapt", support_inputs(batch, self.metadata, generator)))
            return None
        if "step" not in self._sessions:
            raise SettingsError(
                "A recurrent policy adapts by acting and a learner of streams by reading: call "
                "`act` or `read`, no `adapt`."
            )
        if self.kind == "control":
            horizon = horizon_of(self.metadata)
            check_lengths(batch, horizon)
            batch = padded(batch, horizon)
        outputs = self._run("step", batch)
        self._take(outputs)
        return float(outputs["loss" if self.kind == "supervised" else "return"])

    def adapt_on_log(
        self,
        *,
        steps: int = 1,
        scale: float = 1.0,
        options: dict[str, Any] | None = None,
        **batch: Any,
    ) -> LogResult:
        """Takes adaptation steps on logged rollouts, which another policy may have collected.

        Args:
            steps: Steps on these rollouts, at least 1.
            scale: Factor on the loss.
            options: `correction` and `least_effective` of `importance_weights`.
            **batch: As for `adapt`, and: `log_probs` [N, H], the log-density of each action under
                who took it, in the environment's units; none if it was the policy with the present
                theta. `cut` [N]: whether an episode continues after its last step; none: no.
                `counts` [N, H]: whether a step was sampled and executed; none: all were.

        Returns:
            The mean return and the effective sample size, in steps.

        Raises:
            SettingsError: The effective sample is too small to mean anything.
            ShapeError: See `adapt`.
            NonFiniteError: A step would make theta infinite or NaN; no step is taken.
        """
        if "log_step" not in self._sessions:
            raise SettingsError(
                "Expected an export with the graph log_step, which takes logs: of a policy that "
                "adapts by gradients, by this version of MetaRL; export the run again."
            )
        check_int("steps", steps)
        check_number("scale", scale, POSITIVE)
        given = log_inputs(batch, horizon_of(self.metadata), self.log_probs_of, options or {})
        before = self.theta.copy(), self.state.copy(), self.steps
        feeds = {**given.feeds, "scale": np.float32(scale)}
        try:
            for _ in range(steps):
                outputs = self._run("log_step", feeds)
                self._take(outputs)
        except MetarlError:
            self.theta, self.state, self.steps = before
            raise
        return LogResult(float(outputs["return"]), given.effective)

    def log_probs_of(self, batch: dict[str, Any], *, start: bool = False) -> Array:
        """Returns the log-density of each action in the environment's units, [N, H].

        Args:
            batch: `observations` [N, H + 1, O], `actions` [N, H, *] and `lengths` [N] of rollouts;
                the rest is ignored. Shorter rollouts are padded up to H.
            start: Whether under the exported start, in place of the present theta.
        """
        horizon, names = horizon_of(self.metadata), ("observations", "actions", "lengths")
        check_lengths(batch, horizon)
        given = padded({n: batch[n] for n in names if n in batch}, horizon)
        present = self.theta
        self.theta = {n: self._start[n] for n in present} if start else present
        try:
            return self._run("log_probs", given)["log_probs"]
        finally:
            self.theta = present

    def _take(self, outputs: Arrays) -> None:
        """Takes over the theta and state of a step.

        Raises:
            NonFiniteError: An output is infinite or NaN; nothing changes.
        """
        broken = [n for n, v in outputs.items() if not np.isfinite(v).all()]
        if broken:
            raise NonFiniteError(
                f"The step would make {', '.join(broken[:3])} infinite or NaN and was not "
                "taken. Look for such values in the batch, or take fewer steps."
            )
        for name, value in outputs.items():
            if name.startswith("new.theta."):
                self.theta[name.removeprefix("new.")] = value
            elif name.startswith("new.state."):
                self.state[name.removeprefix("new.")] = value
        self.steps += 1

    def predict(
        self, inputs: Array, support: Array | None = None, *, mask: Array | None = None
    ) -> Array:
        """Returns the outputs of the adapted network, [B, *]: scores of the classes, or values.

        Args:
            inputs: The inputs, [B, *input].
            support: For a network that normalises batches and keeps no statistics of its support
                set: the inputs that it adapted on, with which each input is then normalised alone.
                None: all `inputs` are normalised together.
            mask: True for the real elements of padded sequences, [B, L], if the export takes it.

        Raises:
            SettingsError: The export is a policy, or a metric or memory learner without a support
                set yet.
            ShapeError: The inputs have another shape or type.
        """
        if "predict" not in self._sessions:
            raise SettingsError("A policy acts, and a stream is read: call `act` or `read`.")
        if self.kind == "support" and not self.state:
            raise SettingsError("Expected a support set first: call `adapt`.")
        if support is None or not self.metadata["normalises_batches"]:
            given = {"inputs": inputs} if mask is None else {"inputs": inputs, "mask": mask}
            return self._run("predict", given)["outputs"]
        if mask is not None:
            raise SettingsError(
                "Expected no `support` with a mask: append the input to the support inputs, and "
                "its mask to theirs, and take the last output."
            )
        rows = [np.concatenate((support, row[None])) for row in np.asarray(inputs)]
        return np.stack([self._run("predict", {"inputs": row})["outputs"][-1] for row in rows])

    def read(self, inputs: Array, label: int | None = None) -> Array:
        """Reads the next example of a stream; returns scores of its label, [characters, letters].

        Args:
            inputs: The example, [*input].
            label: The label of the example before; None for the first one of a stream.

        Raises:
            SettingsError: The export reads no streams, the label of the example before is missing,
                or the stream is longer than the memory; `reset` begins another one.
            ShapeError: The example has another shape, or the label is none of the code.
            NonFiniteError: The example is infinite or NaN.
        """
        if self.kind != "stream":
            raise SettingsError("Only learners of streams `read`: call `predict` or `act`.")
        feeds = stream_inputs(inputs, label, self.metadata["stream"], self.steps)
        outputs = self._run("read", feeds)
        self._take(outputs)
        return outputs["scores"]

    def check_state(self, state: Arrays) -> None:
        """Checks that a state is one that `predict` takes.

        Raises:
            ShapeError: It lacks a tensor, or one has another shape or type.
        """
        ports = self.metadata["graphs"]["predict"]["inputs"]
        wanted = [port for port in ports if port["name"].startswith("state.")]
        if state.keys() != {port["name"] for port in wanted}:
            raise ShapeError(
                f"Expected the state {', '.join(port['name'] for port in wanted)}, got "
                f"{', '.join(sorted(state)) or 'none'}."
            )
        for port in wanted:
            checked_input(state, port)
        check_sizes(state, wanted)

    def act(
        self,
        observation: Array,
        reward: float = 0.0,
        ended: bool = False,
        *,
        generator: np.random.Generator | None = None,
    ) -> Array:
        """Returns the action for an observation, in the environment's units.

        Args:
            observation: The observation, [O]; or [B, O] if the policy is not recurrent.
            reward: Recurrent policies: the reward of the action before.
            ended: Recurrent policies: whether that action ended an episode.
            generator: Draws a sample, to explore; the rollouts of an adaptation consist of
                samples. It may lie outside the bounds: store it, clip it for the environment.
                None: the most likely action, within the bounds.

        Raises:
            SettingsError: The export is no policy, or the trial is longer than those that its
                attention was trained for.
            ShapeError: The observation has another shape.
            NonFiniteError: It is infinite or NaN.
        """
        if "act" not in self._sessions:
            raise SettingsError("This export is no policy: call `predict` or `read`, no `act`.")
        name = "action" if generator is None else "sample"
        if not np.isfinite(observation).all():
            raise NonFiniteError(
                "Expected a finite observation, got NaN or infinity: hold the last action, or open "
                "the run itself, whose adapter can (`Safety`)."
            )
        if self.kind == "recurrent":
            return self._act_recurrent(np.asarray(observation), reward, ended, name, generator)
        rows = np.asarray(observation, np.float32)
        single = rows.ndim == 1
        rows = rows[None] if single else rows
        noise = self._noise(generator, len(rows))
        action = self._run("act", {"observations": rows, "noise": noise})[name]
        return action[0] if single else action

    def _act_recurrent(
        self,
        observation: Array,
        reward: float,
        ended: bool,
        name: str,
        generator: np.random.Generator | None,
    ) -> Array:
        longest = self.metadata["trial"].get("longest")
        if longest is not None and self.steps >= longest:
            raise SettingsError(
                f"Expected a trial of at most {longest} steps, for which this policy was trained: "
                "it knows no later positions. Call `reset`, or train it on longer trials."
            )
        ports = {p["name"]: p for p in self.metadata["graphs"]["act"]["inputs"]}
        previous = ports["previous_action"]
        first = np.zeros(previous["shape"], previous["dtype"])
        outputs = self._run(
            "act",
            {
                "observation": observation,
                "previous_action": self._previous.get("action", first),
                "previous_reward": np.float32(reward if self._previous else 0),
                "ended": np.float32(ended),
                "begun": np.float32(bool(self._previous)),
                "noise": self._noise(generator, 1),
            },
        )
        self.state = {n: outputs[f"new.{n}"] for n in self.state}
        self._previous = {"action": outputs[name]}
        self.steps += 1
        return outputs[name]

    def _noise(self, generator: np.random.Generator | None, count: int) -> Array:
        """Draws the noise of `act`, [*shape] float32; zeros without a generator."""
        (port,) = (p for p in self.metadata["graphs"]["act"]["inputs"] if p["name"] == "noise")
        shape = [count if isinstance(n, str) else n for n in port["shape"]]
        if generator is None:
            return np.zeros(shape, np.float32)
        normal = np.array([kind == "normal" for kind in self.metadata["noise"]])
        draws = generator.standard_normal(shape, np.float32), generator.random(shape, np.float32)
        return np.where(normal if normal.size > 1 else normal[0], *draws)

    def _run(self, graph: str, batch: dict[str, Any]) -> Arrays:
        """Runs a graph on theta, the state and a batch, which is checked."""
        ports = self.metadata["graphs"][graph]["inputs"]
        outputs = [p["name"] for p in self.metadata["graphs"][graph]["outputs"]]
        own = {**self.theta, **self.state}
        feeds = {
            p["name"]: own[p["name"]] if p["name"] in own else checked_input(batch, p)
            for p in ports
        }
        unknown = batch.keys() - {p["name"] for p in ports}
        if unknown:
            raise ShapeError(f"The {graph} has no input {', '.join(sorted(unknown))}.")
        check_sizes(feeds, ports)
        return dict(zip(outputs, self._sessions[graph].run(outputs, feeds), strict=True))
