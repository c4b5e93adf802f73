"""MuJoCo Warp's worlds as torch tensors, with steps and resets captured as graphs.

Only the warp engine imports this module, when an environment is built, since Warp is optional.
"""

import copy
import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields as fields_of
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.cuda_graphs import uncollected
from metarl.devices import resolve_device
from metarl.errors import SettingsError
from metarl.sim.mujoco.derived import Elements
from metarl.sim.mujoco.physics import START_FIELDS, mj, model_field
from metarl.sim.warp.kernels import (
    BAD_VALUES,
    MEMORY_OVERFLOWS,
    Overflow,
    begin,
    gather,
    judge,
)
from metarl.sim.warp.loading import load_kernels

# `Any`: Warp may not be installed when type checkers run.
wp: Any = importlib.import_module("warp")
mjw: Any = importlib.import_module("mujoco_warp")

if wp.config.log_level == wp.LOG_INFO:
    wp.config.log_level = wp.LOG_WARNING  # otherwise it prints a line for each of 100 modules

# Constants that `set_const` computes from a model. If their arrays are not batched over worlds, it
# silently uses the values of world 0 for all worlds.
CONSTANTS = (
    "actuator_acc0", "body_invweight0", "body_subtreemass", "dof_invweight0", "eq_data",
    "geom_aabb", "geom_rbound", "tendon_invweight0", "tendon_length0",
)  # fmt: skip

# Fields on which no constant depends. A change of any other field recomputes the constants.
INDEPENDENT_FIELDS = {
    "actuator_delay",
    "dof_damping",
    "dof_frictionloss",
    "geom_friction",
    "jnt_range",
}

SIMPLE_SLIDE = 2  # `body_simple` of bodies with only axis-aligned slide joints

MAX_ITERATIONS = 10  # of the solver, if a graph cannot leave the loop early


class WarpPhysics:
    """W worlds of a MuJoCo model on one Warp device, as torch tensors that share its memory.

    Steps and resets are graphs that are captured once. A graph stores the addresses of its arrays,
    so all tensors are written in place.

    Args:
        model: A compiled `mujoco.MjModel`.
        worlds: The number of worlds, W.
        frame_skip: The number of MuJoCo steps per call of `step`.
        device: A torch device, CUDA or the CPU.
        fields: Names of the model fields that differ between worlds.
        nconmax: The maximum number of contacts per world; the memory for W times as many is shared
            by all worlds.
        njmax: The maximum number of constraint rows per world.
        deterministic: Orders contacts and sums, so that CUDA runs are the same bit for bit.
        derived: The derived entries of the family; see `derived_elements`.

    Attributes:
        device: The device of the tensors.
        ctrl: Controls of the next step, [W, nu] float32.
        mask: The worlds that the next `reset` resets, [W] bool.
        fresh: Their initial positions, velocities and controls, [W, nq + nv + nu] float32.
        state: Positions, velocities and controls after the last `step` or `reset`, [W, nq + nv +
            nu] float32; positions and velocities are NaN in worlds with errors.
        start_fields: The accelerations from which the constraint solver starts, "qacc_warmstart"
            [W, nv] float32, and the activations of actuators, "act" [W, na], of a model with some.
        mocap: Poses of mocap bodies, "mocap_pos" [W, M, 3] and "mocap_quat" [W, M, 4]; empty for a
            model without them.
        warned: The errors of each world's current episode, as bits, [W] int32.
        seen: The errors of each world since `seen` was last set to 0, [W] int32.
        fields: The model fields that differ between worlds, [W, *] float32 each.
        saved_shape: The shape of the tensor that `save` returns.

    Raises:
        SettingsError: Warp has no such device or cannot run the model, or it does not batch a field
            over worlds.
    """

    def __init__(
        self,
        model: Any,
        worlds: int,
        frame_skip: int,
        device: torch.device,
        fields: tuple[str, ...] = (),
        *,
        nconmax: int = 32,
        njmax: int = 64,
        deterministic: bool = False,
        derived: Elements | None = None,
    ) -> None:
        self._warp_device = warp_device(device)
        self.device = torch.device(wp.device_to_torch(self._warp_device))
        self._frame_skip, self._worlds = frame_skip, worlds
        changed = {f for f in fields if not f.startswith("opt.")}
        self._changes_constants = bool(changed - INDEPENDENT_FIELDS)
        self._streams: dict[int, Any] = {}
        self._limits = (nconmax, njmax)
        model = _with_newton(model)
        self.saved_shape = (worlds, mj.mj_stateSize(model, mjw.State.INTEGRATION.value))
        with self._on_torch_stream():
            self._model = self._put_model(model, fields, deterministic)
            self._data = mjw.make_data(model, nworld=worlds, nconmax=nconmax, njmax=njmax)
            self.fields = {f: self._field_view(f, model) for f in fields}
            self._create_shared_tensors(model)
            self._create_derived(derived or {})
            self._reset_graph, self._step_graph = map(self._capture, (self._reset, self._step))
            self._place_graph = self._capture(self._place) if self._derived else None

    def step(self) -> None:
        """Runs `frame_skip` MuJoCo steps with the controls `ctrl`, and updates `state`."""
        wp.capture_launch(self._step_graph, stream=self._torch_stream())

    def reset(self) -> None:
        """Resets the worlds in `mask` to the states in `fresh`, and updates `state`."""
        wp.capture_launch(self._reset_graph, stream=self._torch_stream())

    def place(self) -> None:
        """Updates what `derive` returns to the positions and mocap poses, as `step` does."""
        if self._place_graph is not None:
            wp.capture_launch(self._place_graph, stream=self._torch_stream())

    def derive(self) -> dict[str, Tensor]:
        """Returns the derived entries after the last `step` or `place`, [W, K, *] float32.

        They are copies, NaN in worlds with errors.
        """
        if not self._derived:
            return {}
        failed = self.warned != 0
        values = {n: self._views[n].index_select(1, i) for n, i in self._derived.items()}
        return {
            n: v.masked_fill_(failed.view(-1, *[1] * (v.dim() - 1)), torch.nan)
            for n, v in values.items()
        }

    def update(self, fields: Mapping[str, Tensor]) -> None:
        """Sets model fields, and recomputes the constants that depend on them.

        Args:
            fields: The new values of all or some of the attribute `fields`, [W, *] each.
        """
        for name, value in fields.items():
            self.fields[name].copy_(value)
        if self._changes_constants:
            with self._on_torch_stream():
                mjw.set_const(self._model, self._data)
            self._correct_slide_weights()

    def save(self) -> Tensor:
        """Returns MuJoCo's full integration state, including the warm start, [W, *] float32."""
        saved = torch.empty(self.saved_shape, device=self.device)
        with self._on_torch_stream():
            mjw.get_state(self._model, self._data, wp.from_torch(saved), mjw.State.INTEGRATION)
        return saved

    def load(self, saved: Tensor) -> None:
        """Restores what `save` returned, on this or another device."""
        values = saved.to(self.device).contiguous()
        with self._on_torch_stream():
            mjw.set_state(self._model, self._data, wp.from_torch(values), mjw.State.INTEGRATION)
            self._data.overflow.zero_()

    def diagnosis(self) -> str:
        """Returns sentences on the errors since `seen` was last set to 0, or "".

        Synchronises with the device.
        """
        flags = self.seen.tolist()
        diverged = _first_world(flags, sum(BAD_VALUES))
        full = _first_world(flags, MEMORY_OVERFLOWS)
        text = ""
        if diverged is not None:
            names = ", ".join(name for bit, name in BAD_VALUES.items() if flags[diverged] & bit)
            text += (
                f" MuJoCo Warp found {names} in world {diverged}: the simulation diverged; smaller "
                "steps of time or smaller actions may help."
            )
        if full is not None:
            bits = MEMORY_OVERFLOWS & flags[full]
            names = ", ".join(b.name for b in Overflow if b & bits and b.name)
            text += (
                f" MuJoCo Warp ran out of room in world {full} ({names}): give more than nconmax "
                f"{self._limits[0]} for contacts or njmax {self._limits[1]} for constraints."
            )
        return text

    def constant(self, name: str) -> Tensor:
        """Returns a copy of a model constant, [W, *], or [1, *] if it is the same in all worlds."""
        return wp.to_torch(getattr(self._model, name)).clone()

    # Helpers

    def _create_shared_tensors(self, model: Any) -> None:
        """Creates the tensors whose memory torch and Warp share."""
        width = model.nq + model.nv + model.nu
        self.ctrl = wp.to_torch(self._data.ctrl)
        further = [n for n in START_FIELDS if n != "act" or model.na]
        self.start_fields = {n: wp.to_torch(getattr(self._data, n)) for n in further}
        names = ("mocap_pos", "mocap_quat") if model.nmocap else ()
        self.mocap = {n: wp.to_torch(getattr(self._data, n)) for n in names}
        self.mask = torch.ones(self._worlds, dtype=torch.bool, device=self.device)
        self.fresh, self.state = torch.zeros(2, self._worlds, width, device=self.device)
        self.fresh[:, : model.nq] = self._to_tensor(model.qpos0)
        shape = (2, self._worlds)
        self.warned, self.seen = torch.zeros(shape, dtype=torch.int32, device=self.device)
        shared = (self.mask, self.fresh, self.state, self.warned, self.seen)
        self._mask, self._fresh, self._state, self._warned, self._seen = map(wp.from_torch, shared)
        self._slides = self._to_tensor(model.body_simple == SIMPLE_SLIDE)
        self._zero_weights = self._to_tensor(model.body_invweight0 == 0)

    def _create_derived(self, derived: Elements) -> None:
        """Creates views of the fields of the derived entries, and the indices of their elements."""
        fields = {n: wp.to_torch(getattr(self._data, field)) for n, (field, _) in derived.items()}
        self._views = {n: v.flatten(2) for n, v in fields.items()}  # matrices: 9 numbers, as in C
        self._derived = {n: self._to_tensor(index) for n, (_, index) in derived.items()}

    def _to_tensor(self, values: np.ndarray) -> Tensor:
        return torch.tensor(values, device=self.device)

    def _correct_slide_weights(self) -> None:
        """Sets the inverse weights that C MuJoCo computes, where those of `set_const` differ."""
        weights, masses = (
            wp.to_torch(f) for f in (self._model.body_invweight0, self._model.body_mass)
        )
        # In C, body_invweight0 = 1 / m for bodies with only slide joints, and weights of 0 stay 0.
        weights[..., 0] = torch.where(self._slides, 1 / masses, weights[..., 0])
        weights.masked_fill_(self._zero_weights, 0)

    def _put_model(self, model: Any, fields: tuple[str, ...], deterministic: bool) -> Any:
        for name in fields:
            _check_field(name, model)
        changed = {f for f in fields if not f.startswith("opt.")}
        batched = changed | set(CONSTANTS if self._changes_constants else ())
        try:
            put = mjw.put_model(model, batch_sizes=dict.fromkeys(batched, self._worlds))
        except (NotImplementedError, ValueError) as error:
            raise SettingsError(
                f"MuJoCo Warp cannot run this model: {error} Choose engine='mujoco'."
            ) from error
        put.opt.warn_overflow = False  # would print from the device; `warned` reports it
        put.opt.deterministic = deterministic
        if self._warp_device.is_cuda and not wp.is_conditional_graph_supported():
            put.opt.graph_conditional = False
            put.opt.iterations = min(put.opt.iterations, MAX_ITERATIONS)
        return put

    def _field_view(self, name: str, model: Any) -> Tensor:
        """Returns a view of a field, [W, *]; must be called before the graphs are captured."""
        if not name.startswith("opt."):
            return wp.to_torch(getattr(self._model, name))
        option = name.removeprefix("opt.")
        shared = getattr(self._model.opt, option)
        values = np.stack([model_field(model, name)] * self._worlds)
        batched = wp.array(values, dtype=shared.dtype)
        setattr(self._model.opt, option, batched)
        return wp.to_torch(batched)

    def _step(self) -> None:
        data = self._data
        for _ in range(self._frame_skip):
            mjw.step(self._model, data)
        state = [data.qpos, data.qvel, data.qacc, data.overflow]
        wp.launch(judge, self._worlds, inputs=state, outputs=[self._warned, self._seen])
        self._gather()
        if self._derived:
            self._place()

    def _reset(self) -> None:
        data = self._data
        mjw.reset_data(self._model, data, reset=self._mask)
        outputs = [data.qpos, data.qvel, data.ctrl, self._warned]
        wp.launch(begin, self.fresh.shape, inputs=[self._mask, self._fresh], outputs=outputs)
        self._gather()

    def _place(self) -> None:
        mjw.kinematics(self._model, self._data)

    def _gather(self) -> None:
        data = self._data
        inputs = [data.qpos, data.qvel, data.ctrl, self._warned]
        wp.launch(gather, self.state.shape, inputs=inputs, outputs=[self._state])

    def _capture(self, body: Callable[[], None]) -> Any:
        """Runs `body` once, which compiles its kernels, and returns a captured graph of it."""
        if self._warp_device.is_cuda:
            load_kernels(body, self._warp_device)
        body()
        with uncollected(), wp.ScopedCapture() as capture:
            body()
        return capture.graph

    def _torch_stream(self) -> Any:
        """Returns torch's current stream as a Warp stream, or None if Warp's own will do.

        CUDA synchronises Warp's stream with CUDA's default stream, which is torch's default stream.
        """
        if self.device.type != "cuda":
            return None
        stream = torch.cuda.current_stream(self.device)
        if stream == torch.cuda.default_stream(self.device):
            return None
        if stream.cuda_stream not in self._streams:
            self._streams[stream.cuda_stream] = wp.stream_from_torch(stream)
        return self._streams[stream.cuda_stream]

    @contextmanager
    def _on_torch_stream(self) -> Iterator[None]:
        with wp.ScopedDevice(self._warp_device), wp.ScopedStream(self._torch_stream()):
            yield


def warp_device(device: torch.device) -> Any:
    """Returns the Warp device of a torch device.

    Raises:
        SettingsError: Warp does not find the device.
    """
    device = resolve_device(device)  # Warp needs the index
    wp.init()
    if device.type == "cuda" and not wp.is_cuda_available():
        raise SettingsError(
            f"Torch finds CUDA, but Warp {wp.__version__} does not: it may need a newer driver of "
            "NVIDIA (see docs/control.md). Choose engine='mujoco'."
        )
    try:
        return wp.device_from_torch(device)
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        raise SettingsError(f"Warp {wp.__version__} has no device {device}: {error}") from error


def _with_newton(model: Any) -> Any:
    """Returns the model with the Newton solver in place of PGS, which Warp lacks."""
    if model.opt.solver != mj.mjtSolver.mjSOL_PGS:
        return model
    model = copy.copy(model)  # the family's model is shared
    model.opt.solver = mj.mjtSolver.mjSOL_NEWTON
    return model


def _check_field(name: str, model: Any) -> None:
    model_field(model, name)  # raises for unknown names
    owner = mjw.Option if name.startswith("opt.") else mjw.Model
    for field in fields_of(owner):
        shape = getattr(field.type, "shape", None) or ("",)
        if field.name == name.removeprefix("opt.") and shape[0] == "*":
            return
    raise SettingsError(
        f"MuJoCo Warp has one {name!r} for all worlds, not one for each: choose engine='mujoco', "
        "or tasks that change something else."
    )


def _first_world(flags: list[int], bits: int) -> int | None:
    """Returns the first world whose flags have any of the bits."""
    return next((world for world, flag in enumerate(flags) if flag & bits), None)
