"""MuJoCo Warp's worlds as torch tensors: captured steps and resets, and what went wrong in them.

Only the warp engine imports this module, and only when it is built: Warp is an extra.
"""

import copy
import gc
import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields as fields_of
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.errors import SettingsError
from metarl.sim.mujoco.physics import check_shape, mj, model_field
from metarl.sim.warp.kernels import BAD, KEPT, Overflow, begin, gather, judge

# Warp need not be there when type checkers run.
wp: Any = importlib.import_module("warp")
mjw: Any = importlib.import_module("mujoco_warp")

if wp.config.log_level == wp.LOG_INFO:
    wp.config.log_level = wp.LOG_WARNING  # it prints a line for each of a hundred modules

# Constants that `set_const` computes from a model. It writes those of world 0 into all worlds
# where these are not one for each world, without a word.
CONSTANTS = (
    "actuator_acc0", "body_invweight0", "body_subtreemass", "dof_invweight0", "eq_data",
    "geom_aabb", "geom_rbound", "tendon_invweight0", "tendon_length0",
)  # fmt: skip

# Fields from which no constant follows; after all others they are computed anew.
FREE = {"actuator_delay", "dof_damping", "dof_frictionloss", "geom_friction", "jnt_range"}

SLIDES = 2  # `body_simple` of bodies on slide joints along their axes alone

FEW_ITERATIONS = 10  # of the solver, where a graph cannot end its loop sooner


class WarpPhysics:
    """W worlds of a MuJoCo model on one device of Warp; tensors share memory with it.

    Steps and resets are graphs that are captured once. They know arrays by their addresses, so
    everything here is written in place.

    Args:
        model: A compiled `mujoco.MjModel`.
        worlds: The number of worlds, W.
        frame_skip: MuJoCo's steps in one call of `step`.
        device: A device of torch, CUDA or the CPU.
        fields: Names of the model's fields that each world has values of its own of.
        nconmax: Contacts that there is room for, times W for all worlds together.
        njmax: Rows of constraints that each world has room for.
        deterministic: Orders contacts and sums, so that CUDA gives the same bits again.

    Attributes:
        device: Where the tensors are.
        ctrl: Controls of the next step, [W, nu] float32.
        mask: Which worlds the next `reset` starts, [W] bool.
        fresh: What it starts them with: positions, velocities and controls, [W, nq + nv + nu].
        state: The same numbers after the last `step` or `reset`; positions and velocities are nan
            in worlds where something went wrong.
        warned: What went wrong in each world's episode, as bits, [W] int32.
        seen: What went wrong in each world since it was last set to 0, [W] int32.
        fields: The model's fields that were asked for, [W, *] float32 each.
        saved_shape: The shape of what `save` returns.

    Raises:
        SettingsError: Warp has no such device, or cannot run the model, or a field is the same in
            all of its worlds.
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
    ) -> None:
        self._warp_device = warp_device(device)
        self.device = torch.device(wp.device_to_torch(self._warp_device))
        self._frame_skip, self._worlds = frame_skip, worlds
        self._derive = bool({f for f in fields if not f.startswith("opt.")} - FREE)
        self._streams: dict[int, Any] = {}
        self._room = (nconmax, njmax)
        model = _with_newton(model)
        self.saved_shape = (worlds, mj.mj_stateSize(model, mjw.State.INTEGRATION.value))
        with self._on_torchs_stream():
            self._model = self._put(model, fields, deterministic)
            self._data = mjw.make_data(model, nworld=worlds, nconmax=nconmax, njmax=njmax)
            self.fields = {f: self._field(f, model) for f in fields}
            self._share(model)
            self._resets, self._steps = _captured(self._reset), _captured(self._step)

    def step(self) -> None:
        """Takes `frame_skip` steps with the controls `ctrl`, and renews `state`."""
        wp.capture_launch(self._steps, stream=self._torchs_stream())

    def reset(self) -> None:
        """Starts the worlds that `mask` marks with what `fresh` says, and renews `state`."""
        wp.capture_launch(self._resets, stream=self._torchs_stream())

    def update(self, fields: Mapping[str, Tensor]) -> None:
        """Gives the model's fields other values, and computes the constants that follow.

        Args:
            fields: [W, *] each, as in `fields`.

        Raises:
            ShapeError: A value has another shape.
        """
        for name, value in fields.items():
            check_shape(name, value, self.fields[name].shape)
            self.fields[name].copy_(value)
        if self._derive:
            with self._on_torchs_stream():
                mjw.set_const(self._model, self._data)
            self._correct()

    def save(self) -> Tensor:
        """Returns all that MuJoCo's next step depends on, warm start included, [W, *] float32."""
        saved = torch.empty(self.saved_shape, device=self.device)
        with self._on_torchs_stream():
            mjw.get_state(self._model, self._data, wp.from_torch(saved), mjw.State.INTEGRATION)
        return saved

    def load(self, saved: Tensor) -> None:
        """Goes on from what `save` returned, on this or another device."""
        values = saved.to(self.device).contiguous()
        with self._on_torchs_stream():
            mjw.set_state(self._model, self._data, wp.from_torch(values), mjw.State.INTEGRATION)
            self._data.overflow.zero_()

    def diagnosis(self) -> str:
        """Returns sentences on what went wrong since `seen` was last 0, or nothing; waits."""
        seen = self.seen.tolist()
        diverged = _first(seen, sum(BAD))
        full = _first(seen, KEPT)
        text = ""
        if diverged is not None:
            names = ", ".join(name for bit, name in BAD.items() if seen[diverged] & bit)
            text += (
                f" MuJoCo Warp found {names} in world {diverged}: the simulation diverged; smaller "
                "steps of time or smaller actions may help."
            )
        if full is not None:
            names = ", ".join(b.name for b in Overflow if b & KEPT & seen[full] and b.name)
            text += (
                f" MuJoCo Warp ran out of room in world {full} ({names}): give more than nconmax "
                f"{self._room[0]} for contacts or njmax {self._room[1]} for constraints."
            )
        return text

    def constant(self, name: str) -> Tensor:
        """Returns a copy of a constant of the model, [W, *], or [1, *] if no task changes it."""
        return wp.to_torch(getattr(self._model, name)).clone()

    # Parts

    def _share(self, model: Any) -> None:
        """Makes the tensors that torch and Warp both know."""
        width = model.nq + model.nv + model.nu
        self.ctrl = wp.to_torch(self._data.ctrl)
        self.mask = torch.ones(self._worlds, dtype=torch.bool, device=self.device)
        self.fresh, self.state = torch.zeros(2, self._worlds, width, device=self.device)
        self.fresh[:, : model.nq] = self._constant(model.qpos0)
        shape = (2, self._worlds)
        self.warned, self.seen = torch.zeros(shape, dtype=torch.int32, device=self.device)
        shared = (self.mask, self.fresh, self.state, self.warned, self.seen)
        self._mask, self._fresh, self._state, self._warned, self._seen = map(wp.from_torch, shared)
        self._slides = self._constant(model.body_simple == SLIDES)
        self._weightless = self._constant(model.body_invweight0 == 0)

    def _constant(self, values: np.ndarray) -> Tensor:
        return torch.tensor(values, device=self.device)

    def _correct(self) -> None:
        """Gives bodies that only slide the weights that C gives them; `set_const` has others."""
        weights, masses = (
            wp.to_torch(f) for f in (self._model.body_invweight0, self._model.body_mass)
        )
        weights[..., 0] = torch.where(self._slides, 1 / masses, weights[..., 0])
        weights.masked_fill_(self._weightless, 0)

    def _put(self, model: Any, fields: tuple[str, ...], deterministic: bool) -> Any:
        for name in fields:
            _check_field(name, model)
        own = {f for f in fields if not f.startswith("opt.")}
        batched = own | set(CONSTANTS if self._derive else ())
        try:
            put = mjw.put_model(model, batch_sizes=dict.fromkeys(batched, self._worlds))
        except (NotImplementedError, ValueError) as error:
            raise SettingsError(
                f"MuJoCo Warp cannot run this model: {error} Choose engine='mujoco'."
            ) from error
        put.opt.warn_overflow = False  # it would print from the device; `warned` tells of it
        put.opt.deterministic = deterministic
        if self._warp_device.is_cuda and not wp.is_conditional_graph_supported():
            put.opt.graph_conditional = False
            put.opt.iterations = min(put.opt.iterations, FEW_ITERATIONS)
        return put

    def _field(self, name: str, model: Any) -> Tensor:
        """Returns a view of a field, one for each world; to be called before any capture."""
        if not name.startswith("opt."):
            return wp.to_torch(getattr(self._model, name))
        option = name.removeprefix("opt.")
        shared = getattr(self._model.opt, option)
        values = np.stack([model_field(model, name)] * self._worlds)
        own = wp.array(values, dtype=shared.dtype)
        setattr(self._model.opt, option, own)
        return wp.to_torch(own)

    def _step(self) -> None:
        data = self._data
        for _ in range(self._frame_skip):
            mjw.step(self._model, data)
        state = [data.qpos, data.qvel, data.qacc, data.overflow]
        wp.launch(judge, self._worlds, inputs=state, outputs=[self._warned, self._seen])
        self._gather()

    def _reset(self) -> None:
        data = self._data
        mjw.reset_data(self._model, data, reset=self._mask)
        outputs = [data.qpos, data.qvel, data.ctrl, self._warned]
        wp.launch(begin, self.fresh.shape, inputs=[self._mask, self._fresh], outputs=outputs)
        self._gather()

    def _gather(self) -> None:
        data = self._data
        inputs = [data.qpos, data.qvel, data.ctrl, self._warned]
        wp.launch(gather, self.state.shape, inputs=inputs, outputs=[self._state])

    def _torchs_stream(self) -> Any:
        """Returns torch's stream for Warp, or None where Warp's own is in step with it.

        Warp's wait for CUDA's default stream, which torch's default stream is, and it for them.
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
    def _on_torchs_stream(self) -> Iterator[None]:
        with wp.ScopedDevice(self._warp_device), wp.ScopedStream(self._torchs_stream()):
            yield


def warp_device(device: torch.device) -> Any:
    """Returns Warp's name of a device of torch.

    Raises:
        SettingsError: Warp finds no such device.
    """
    wp.init()
    if device.type == "cuda" and not wp.is_cuda_available():
        raise SettingsError(
            f"Torch finds CUDA, but Warp {wp.__version__} does not: it may need a newer driver of "
            "NVIDIA (see docs/control.md). Choose engine='mujoco'."
        )
    return wp.device_from_torch(device)


def _captured(body: Callable[[], None]) -> Any:
    """Returns a graph of what `body` does, which it does once before: that compiles it."""
    body()
    collecting = gc.isenabled()
    gc.disable()  # arrays that died in a capture would be freed by the graph
    try:
        with wp.ScopedCapture() as capture:
            body()
    finally:
        if collecting:
            gc.enable()
    return capture.graph


def _with_newton(model: Any) -> Any:
    """Returns the model with a solver that Warp has: Newton for PGS."""
    if model.opt.solver != mj.mjtSolver.mjSOL_PGS:
        return model
    model = copy.copy(model)  # the family's is shared
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


def _first(seen: list[int], bits: int) -> int | None:
    """Returns the first world that has any of the bits."""
    return next((world for world, own in enumerate(seen) if own & bits), None)
