"""Exported adaptations run by ONNX Runtime, without the learner that they came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from metarl.deploy.export.files import read_metadata
from metarl.deploy.exported.support import support_inputs
from metarl.errors import CheckpointError, NonFiniteError, SettingsError, ShapeError
from metarl.extras import import_extra

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
        folder = Path(folder)
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
        if self.kind != "support":
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
        """What was exported: "supervised", "support", "control" or "recurrent"."""
        return self.metadata["kind"]

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
            raise SettingsError("A recurrent policy adapts by acting: call `act`, no `adapt`.")
        if self.kind == "control":
            _check_lengths(batch, self.metadata["graphs"]["step"]["inputs"])
            batch = self._padded(batch)
        outputs = self._run("step", batch)
        self._take(outputs)
        return float(outputs["loss" if self.kind == "supervised" else "return"])

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
            raise SettingsError("A policy acts: call `act`, no `predict`.")
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
            _checked(state, port)
        _check_free(state, wanted)

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
        """
        if "act" not in self._sessions:
            raise SettingsError("A supervised network predicts: call `predict`, no `act`.")
        name = "action" if generator is None else "sample"
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

    def _padded(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Returns rollouts with rows of H steps."""
        horizon = {p["name"]: p for p in self.metadata["graphs"]["step"]["inputs"]}
        padded = dict(batch)
        for name in ("observations", "actions", "rewards"):
            if name in batch:
                value, steps = np.asarray(batch[name]), horizon[name]["shape"][1]
                missing = steps - value.shape[1] if value.ndim > 1 else 0
                widths = [(0, 0), (0, max(missing, 0)), *[(0, 0)] * (value.ndim - 2)]
                padded[name] = np.pad(value, widths) if missing > 0 else value
        return padded

    def _run(self, graph: str, batch: dict[str, Any]) -> Arrays:
        """Runs a graph on theta, the state and a batch, which is checked."""
        ports = self.metadata["graphs"][graph]["inputs"]
        outputs = [p["name"] for p in self.metadata["graphs"][graph]["outputs"]]
        own = {**self.theta, **self.state}
        feeds = {
            p["name"]: own[p["name"]] if p["name"] in own else _checked(batch, p) for p in ports
        }
        unknown = batch.keys() - {p["name"] for p in ports}
        if unknown:
            raise ShapeError(f"The {graph} has no input {', '.join(sorted(unknown))}.")
        _check_free(feeds, ports)
        return dict(zip(outputs, self._sessions[graph].run(outputs, feeds), strict=True))


def _checked(batch: dict[str, Any], port: dict[str, Any]) -> Array:
    """Returns an input as its graph takes it.

    Raises:
        ShapeError: It is missing, not finite, or has another shape or type.
    """
    name, shape = port["name"], port["shape"]
    if name not in batch:
        raise ShapeError(f"Expected {name} {shape} {port['dtype']} ({port['text']}), got none.")
    value = np.asarray(batch[name])
    fits = len(shape) == value.ndim and all(
        isinstance(n, str) or n == m for n, m in zip(shape, value.shape, strict=False)
    )
    if not fits or value.size == 0:
        raise ShapeError(f"Expected {name} of shape {shape}, got {list(value.shape)}.")
    if not np.can_cast(value.dtype, port["dtype"], "same_kind"):
        raise ShapeError(f"Expected {name} of type {port['dtype']}, got {value.dtype}.")
    return np.ascontiguousarray(value, port["dtype"]).reshape(value.shape)


def _check_free(feeds: Arrays, ports: list[dict[str, Any]]) -> None:
    """Checks that sizes of one name agree.

    Raises:
        ShapeError: They differ.
    """
    sizes: dict[str, int] = {}
    for port in ports:
        for size, actual in zip(port["shape"], feeds[port["name"]].shape, strict=True):
            if isinstance(size, str) and sizes.setdefault(size, actual) != actual:
                raise ShapeError(
                    f"Expected as many {size} in {port['name']} as before, {sizes[size]}, got "
                    f"{actual}."
                )


def _check_lengths(batch: dict[str, Any], ports: list[dict[str, Any]]) -> None:
    """Checks the lengths of episodes.

    Raises:
        ShapeError: One is negative or above H, or all are 0.
    """
    (horizon,) = (p["shape"][1] for p in ports if p["name"] == "rewards")
    lengths = np.asarray(batch.get("lengths", 1))
    if lengths.size and not (lengths.min() >= 0 and 0 < lengths.max() <= horizon):
        raise ShapeError(
            f"Expected lengths from 0 to {horizon}, at least one above 0, got {lengths.min()} to "
            f"{lengths.max()}; `--horizon` of the export sets the largest."
        )
