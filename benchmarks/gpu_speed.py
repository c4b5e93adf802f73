"""The speeds that `gpu_report` measures: one function per part, which yields rows.

Each row has what was measured next to a per-task loop on the same device and next to the CPU, where
there is something to compare.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import loops
from benchmarks.omniglot import OmniglotBenchmark, RandomImages, sequential
from benchmarks.timing import MetaIteration
from metarl.adaptation import MAML, Adaptation, GradientLearner
from metarl.devices import seeded_generator
from metarl.models import MLP, Conv4
from metarl.models.base import task_params
from metarl.rl import PolicyLearner, policy_for
from metarl.rl.rollouts import draw_noise
from metarl.rl.settings import PolicyGradientSettings
from metarl.rl.worlds import Worlds
from metarl.sim import TaskFamily, make_family, make_vec
from metarl.tasks import Examples, Sine, TaskBatch
from metarl.training import TrainingSettings
from metarl.training.trust_region import TrustRegionSettings
from metarl.trees import cut_tasks, map_tensors

Row = dict[str, Any]
"""work, unit, measured, and where they exist loop, cpu, goal (of a later version) and note."""

CPU = torch.device("cpu")
PER_TASK = 20
"""Worlds of a task of navigation."""
ROBOTS_PER_TASK = 32
"""Worlds of a task of robots."""
LOOPED = 400
"""The most worlds that are also measured task by task."""
ON_CPU = 20_000
"""The most worlds that are also measured on the CPU."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured: on a GPU, or in a test on a CPU.

    Attributes:
        tasks: Tasks of sine, Omniglot and navigation.
        filters: Filters of Conv4.
        navigation: Worlds of navigation rollouts.
        horizon: Steps of navigation rollouts and of iterations on robots.
        worlds: Worlds of the half cheetah.
        others: Worlds of ant and humanoid.
        steps: Environment steps per call.
        iteration: Tasks and rollouts per task of the half cheetah's iteration.
        seconds: Duration of each of three rounds.
    """

    tasks: tuple[int, int, int] = (25, 32, 20)
    filters: int = 64
    navigation: tuple[int, ...] = (400, 20_000, 200_000)
    horizon: int = 100
    worlds: tuple[int, ...] = (1024, 4096, 16_384)
    others: int = 4096
    steps: int = 50
    iteration: tuple[int, int] = (40, 20)
    seconds: float = 0.5


SMALL = Sizes((3, 2, 2), 4, (20,), 5, (8,), 8, 3, (2, 3), 0.0)
"""For the program's test on a CPU."""


def milliseconds(run: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Returns the median time of a call over three rounds, after three calls, in ms.

    With 0 seconds it is the time of the second call.
    """
    run()
    if not seconds:
        return 1e3 * _seconds(run, device, 1)
    run()
    calls = max(1, round(seconds / max(1e-9, _seconds(run, device, 1))))
    return 1e3 * statistics.median(_seconds(run, device, calls) / calls for _ in range(3))


def _seconds(run: Callable[[], object], device: torch.device, calls: int) -> float:
    _wait(device)
    started = time.perf_counter()
    for _ in range(calls):
        run()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def row(
    work: str, ours: float, *, loop: float | None = None, cpu: float | None = None,
    goal: float | None = None, unit: str = "ms", note: str = "",
) -> Row:  # fmt: skip
    """Returns a row; see `Row`."""
    values = {"measured": ours, "loop": loop, "cpu": cpu, "goal": goal}
    rounded = {n: float(f"{v:.4g}") for n, v in values.items() if v is not None}
    return {"work": work, "unit": unit, **rounded, **({"note": note} if note else {})}


# Supervised tasks


def sine(device: torch.device, sizes: Sizes, compiled: bool = False) -> Iterator[Row]:
    """MAML on sine regression, second order, 1 and 5 steps."""
    tasks = sizes.tasks[0]
    time_of = partial(milliseconds, device=device, seconds=sizes.seconds)
    for steps, goal in ((1, 0.25), (5, 0.6)):
        work = f"MAML on sine, {tasks} tasks, {steps} step(s)"
        if compiled:
            yield row(f"{work}, compiled", time_of(_sine(steps, tasks, device, True)), goal=goal)
            continue
        loop = milliseconds(_sine_loop(steps, tasks, device), device, 0)
        cpu = milliseconds(_sine(steps, tasks, CPU), CPU, sizes.seconds)
        yield row(work, time_of(_sine(steps, tasks, device)), loop=loop, cpu=cpu, goal=goal)
    if not compiled:
        run = _sine(1, 100 * tasks, device)
        yield row(f"MAML on sine, {100 * tasks} tasks, 1 step", time_of(run))


def _sine(steps: int, tasks: int, device: torch.device, compiled: bool = False) -> MetaIteration:
    adaptation = MAML(MLP((1, 40, 40, 1), _generator()), 0.01, steps)
    settings = TrainingSettings(meta_batch_size=tasks, compile=compiled)
    return _iteration(adaptation, Sine(10, 10), settings, device)


def _iteration(
    adaptation: Adaptation, tasks: Any, settings: TrainingSettings, device: torch.device
) -> MetaIteration:
    iteration = MetaIteration(GradientLearner(adaptation).to(device), tasks, settings)
    iteration.generator = seeded_generator(device, 0)
    return iteration


def _sine_loop(steps: int, tasks: int, device: torch.device) -> loops.LoopIteration:
    net = loops.sequential(MLP((1, 40, 40, 1), _generator())).to(device)

    def draw() -> loops.Task:
        return loops.Task(*(t.to(device) for t in loops.sine_task(10, 10)))

    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    return loops.LoopIteration(loops.maml(net, 0.01, steps), optimizer, draw, tasks)


class DeviceImages(RandomImages):
    """Random images with Omniglot's shapes, drawn on the generator's device."""

    def sample(self, num_tasks: int, generator: torch.Generator) -> TaskBatch:
        def examples(per_class: int) -> Examples:
            device = generator.device
            labels = torch.arange(self.settings.way, device=device).repeat(num_tasks, per_class)
            shape = (*labels.shape, 1, 28, 28)
            return Examples(torch.rand(shape, generator=generator, device=device), labels)

        return TaskBatch(examples(self.settings.shots), examples(self.settings.queries))


def omniglot(device: torch.device, sizes: Sizes, compiled: bool = False) -> Iterator[Row]:
    """MAML with Conv4 on Omniglot's shapes, 1 + 1 images, 1 step, second order."""
    tasks = sizes.tasks[1]
    settings = OmniglotBenchmark(shots=1, queries=1, tasks=tasks)
    time_of = partial(milliseconds, device=device, seconds=sizes.seconds)
    work = f"MAML on Omniglot's shapes, {tasks} tasks, 1 + 1 images, 1 step"
    if compiled:
        run = _images(settings, sizes.filters, device, True)
        yield row(f"{work}, compiled", time_of(run), goal=2.5)
        return
    ours = time_of(_images(settings, sizes.filters, device))
    yield row(work, ours, goal=2.5)  # the rest takes longer: a later row replaces this one
    loop = _image_loop(settings, sizes, device)
    with FlopCounterMode(display=False) as counter:
        loop()
    best = _best_flops(device, 4096 if device.type == "cuda" else 512)
    share = counter.get_total_flops() / (1e-3 * ours) / best
    cpu = milliseconds(_images(settings, sizes.filters, CPU), CPU, 0)
    yield row(
        work, ours, loop=milliseconds(loop, device, 0), cpu=cpu, goal=2.5,
        note=f"{share:.1%} of the {best / 1e9:,.0f} GFLOP/s of a large float32 matrix product",
    )  # fmt: skip


def _images(
    settings: OmniglotBenchmark, filters: int, device: torch.device, compiled: bool = False
) -> MetaIteration:
    adaptation = MAML(Conv4(settings.way, _generator(), filters=filters), 0.4)
    training = TrainingSettings(meta_batch_size=settings.tasks, compile=compiled)
    return _iteration(adaptation, DeviceImages(settings), training, device)


def _image_loop(
    settings: OmniglotBenchmark, sizes: Sizes, device: torch.device
) -> loops.LoopIteration:
    net = sequential(Conv4(settings.way, _generator(), filters=sizes.filters)).to(device)
    images, generator = DeviceImages(settings), seeded_generator(device, 0)

    def draw() -> loops.Task:
        task = images.sample(1, generator)
        return loops.Task(*(t[0] for t in (*task.support[:2], *task.query[:2])))

    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    return loops.LoopIteration(loops.maml(net, 0.4, 1), optimizer, draw, settings.tasks)


def _best_flops(device: torch.device, size: int) -> float:
    a, b = torch.rand(2, size, size, device=device)
    return 2 * size**3 / (1e-3 * milliseconds(lambda: a @ b, device, 0.05))


# Rollouts and policies


def navigation(device: torch.device, sizes: Sizes, compiled: bool = False) -> Iterator[Row]:
    """Rollouts of 2D navigation, and an iteration of MAML-TRPO on it."""
    tasks, work = sizes.tasks[2], "MAML-TRPO iteration on navigation"
    if compiled:
        run = _policy_iteration("Navigation2D-v1", (tasks, 20), sizes.horizon, device, True)
        ours = milliseconds(run, device, sizes.seconds)
        yield row(f"{work}, {tasks} tasks, compiled", ours, goal=12)
        return
    for worlds, goal in zip(sizes.navigation, (3, 5, 40), strict=False):
        yield _rollout_row(worlds, sizes, device, goal)
    run, cpu = (
        _policy_iteration("Navigation2D-v1", (tasks, 20), sizes.horizon, d) for d in (device, CPU)
    )
    yield row(
        f"{work}, {tasks} tasks", milliseconds(run, device, sizes.seconds),
        cpu=milliseconds(cpu, CPU, 0), goal=12,
    )  # fmt: skip


def _rollout_row(worlds: int, sizes: Sizes, device: torch.device, goal: float) -> Row:
    """Rollouts as a learner collects them, of 20 worlds per task, policies included."""
    loop = cpu = None
    name, horizon = "Navigation2D-v1", sizes.horizon
    if worlds <= LOOPED:
        one_by_one = _Rollouts(name, worlds, horizon, device, PER_TASK, one_by_one=True)
        loop = milliseconds(one_by_one, device, 0)
    if worlds <= ON_CPU:
        cpu = milliseconds(_Rollouts(name, worlds, horizon, CPU, PER_TASK), CPU, 0)
    run = _Rollouts(name, worlds, horizon, device, PER_TASK)
    ours = milliseconds(run, device, sizes.seconds)
    return row(
        f"navigation rollouts, {worlds} worlds x {horizon} steps", ours, loop=loop, cpu=cpu,
        goal=goal, note=f"{run.rate(ours) / 1e6:.3g} million environment steps/s",
    )  # fmt: skip


class _Rollouts:
    """Collects rollouts as a learner does, with a policy (2 x 100) for each task.

    Args:
        name: Name of the family.
        worlds: All worlds.
        horizon: Steps of a rollout.
        device: The device.
        per_task: Worlds of a task.
        one_by_one: Collects task by task.

    Attributes:
        env: The environment of all worlds.
    """

    def __init__(
        self, name: str, worlds: int, horizon: int, device: torch.device, per_task: int,
        one_by_one: bool = False,
    ) -> None:  # fmt: skip
        family: TaskFamily = make_family(name, horizon=horizon)
        generator, tasks = seeded_generator(device, 0), worlds // per_task
        self._policy = policy_for(family, _generator()).to(device)
        params = map_tensors(Tensor.detach, task_params(self._policy, tasks))
        values = family.sample(tasks, generator).values
        noise = draw_noise(self._policy, family, tasks, per_task, generator)
        self._worlds, self._steps = Worlds(family), tasks * per_task * horizon
        self._parts = cut_tasks((params, values, noise), 1 if one_by_one else None)
        self.env: Any = self._worlds.get(noise) if not one_by_one else None

    def __call__(self) -> None:
        for part in self._parts:
            self._worlds.collect(self._policy, *part)

    def rate(self, time: float) -> float:
        """Returns the environment steps per second of a call that takes `time` ms."""
        return self._steps / (1e-3 * time)


def _policy_iteration(
    name: str, counts: tuple[int, int], horizon: int, device: torch.device, compiled: bool = False
) -> MetaIteration:
    family: TaskFamily = make_family(name, horizon=horizon)
    tasks, trajectories = counts
    chunk = 4 if device.type == "cpu" else None
    learner = PolicyLearner(
        MAML(policy_for(family, _generator()), 0.1), family,
        PolicyGradientSettings(trajectories=trajectories), task_chunk_size=chunk,
    ).to(device)  # fmt: skip
    settings = TrainingSettings(meta_batch_size=tasks, cpu_chunk_size=4, compile=compiled)
    update = TrustRegionSettings(fisher_trajectories=2, fisher_support=2)
    iteration = MetaIteration(learner, family, settings, update)
    iteration.generator = seeded_generator(device, 0)
    return iteration


def half_cheetah(device: torch.device, sizes: Sizes) -> Iterator[Row]:
    """The first environment of a robot, and the half cheetah in closed loop."""
    started = time.perf_counter()
    make_vec("HalfCheetahVelocity-v1", sizes.worlds[0], device)
    _wait(device)
    note = "a second or so if the cache has its kernels"
    yield row(
        "first environment of the half cheetah", time.perf_counter() - started, unit="s", goal=20,
        note=note,
    )  # fmt: skip
    for worlds in sizes.worlds:
        beside = worlds == sizes.worlds[0]
        yield _closed_loop("HalfCheetahVelocity-v1", worlds, sizes, device, beside)


def other_robots(device: torch.device, sizes: Sizes) -> Iterator[Row]:
    """Ant and humanoid in closed loop."""
    for name in ("AntVelocity-v1", "HumanoidDirection-v1"):
        yield _closed_loop(name, sizes.others, sizes, device, True)


def _closed_loop(name: str, worlds: int, sizes: Sizes, device: torch.device, beside: bool) -> Row:
    from benchmarks.locomotion_gpu import PhysicsClock

    per_task = min(worlds, ROBOTS_PER_TASK)
    run = _Rollouts(name, worlds, sizes.steps, device, per_task)
    ours = milliseconds(run, device, sizes.seconds)
    note, physics = f"engine {type(run.env).__name__}", getattr(run.env, "physics", None)
    if physics is not None:
        clock = PhysicsClock(physics)
        spent = _seconds(run, device, 3)
        note = f"{1 - clock.seconds() / spent:.0%} of the time outside the physics"
    cpu = None
    if beside:
        own = _Rollouts(name, min(worlds, 256), sizes.steps, CPU, per_task)
        cpu = own.rate(milliseconds(own, CPU, 0))
    return row(f"{name}, {worlds} worlds", run.rate(ours), cpu=cpu, unit="steps/s", note=note)


def robot_iteration(device: torch.device, sizes: Sizes) -> Iterator[Row]:
    """An iteration of MAML-TRPO on the half cheetah."""
    counts, name = sizes.iteration, "HalfCheetahVelocity-v1"
    run = _policy_iteration(name, counts, sizes.horizon, device)
    ours = milliseconds(run, device, sizes.seconds)
    steps = counts[0] * counts[1] * sizes.horizon * 2
    yield row(
        f"MAML-TRPO iteration on the half cheetah, {counts[0]} tasks x {counts[1]} rollouts", ours,
        note=f"{steps / ours / 1e3:.3g} million environment steps/s",
    )  # fmt: skip


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
