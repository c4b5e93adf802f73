"""Worker processes: the same worlds as in one process, faults that are named, no orphans."""

import gc
import os
import signal
import subprocess
import sys
import time
from functools import partial
from multiprocessing import active_children, get_context
from threading import Lock

import pytest
import torch

from metarl.errors import SettingsError, SimulationError
from metarl.sim import GymTasks, Uniform, WorldNoise, check_vector_env, make_vec
from metarl.sim.gymnasium.workers import METHOD
from tests.sim.gymnasium.environments import Faulty, Slide

SPEED = {"speed": Uniform(-0.2, 0.2)}
SLIDES = GymTasks(Slide, SPEED, horizon=6)
CONTEXT = get_context(METHOD)


def vec(family, worlds=4, workers=2):
    return make_vec(family, worlds, device="cpu", autoreset="disabled", workers=workers)


def gone(pids, seconds=20.0):
    """Waits until no process of these is there."""
    deadline = time.monotonic() + seconds
    while any(map(alive, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def pids():
    return [process.pid for process in active_children()]


@pytest.fixture(autouse=True)
def nothing_is_left():
    yield
    gc.collect()
    assert active_children() == []


def episode(workers):
    env = vec(SLIDES, 5, workers)
    generator = torch.Generator().manual_seed(3)
    env.set_tasks(SLIDES.sample(5, generator).values)
    env.follow(WorldNoise(torch.rand(5, 1, generator=generator), torch.empty(5, 6, 0)))
    actions = torch.rand(6, 5, 1, generator=generator)
    values = [env.reset()[0], *(value for a in actions for value in env.step(a)[:4])]
    env.close()
    return values


def test_nothing_depends_on_the_number_of_workers():
    alone = episode(0)
    assert alone[-2].any()
    for workers in (1, 2, 3, 9):
        for value, expected in zip(episode(workers), alone, strict=True):
            assert torch.equal(value, expected)


def test_the_contract_is_kept_and_workers_are_kept_between_episodes():
    env = make_vec(SLIDES, 3, device="cpu", workers=2)
    assert pids() == []  # none before the first reset
    env.reset()
    first = pids()
    assert len(first) == 2
    check_vector_env(env)
    assert pids() == first
    env.close()
    assert pids() == []
    env.reset()  # again
    assert len(pids()) == 2
    env.close()


def test_environments_of_local_functions_can_be_sent():
    def build(slope=0.5):
        return Slide(slope)

    env = vec(GymTasks(build, {"slope": Uniform(0, 1)}, horizon=3))
    assert env.reset()[0].shape == (4, 2)
    env.close()


def test_what_cannot_be_sent_is_told():
    family = GymTasks(partial(Faulty, Lock()), SPEED, horizon=6)
    with pytest.raises(SettingsError, match=r"cannot be sent to worker processes: .*workers=0"):
        vec(family).reset()


# Faults


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raise", r"failed when it was stepped\.(?s:.*)in step(?s:.*)RuntimeError: the gearbox br"),
        ("hang", "when worker 1 of 2, with the worlds 2 to 3, had not answered for 1 s; it was e"),
        ("die", "when worker 1 of 2, with the worlds 2 to 3, ended with exit code 7"),
    ],
)
def test_a_fault_is_told_and_all_workers_end(fault, message):
    env = vec(GymTasks(partial(Faulty, fault), SPEED, horizon=6, time_limit=1.0))
    env.set_tasks({"speed": torch.tensor([0.0, 0.0, 0.0, 0.2])})
    env.reset()
    workers = pids()
    env.step(torch.zeros(4, 1))
    with pytest.raises(
        SimulationError, match=rf"World 3 .*the task speed 0\.2, in step 1, .*{message}"
    ):
        env.step(torch.zeros(4, 1))
    assert gone(workers) and pids() == []
    env.set_tasks({"speed": torch.zeros(4)})
    env.reset()  # and there are others again
    env.step(torch.zeros(4, 1))
    env.close()


def test_an_environment_that_cannot_be_built_is_told():
    env = vec(GymTasks(Parent(os.getpid()), SPEED, horizon=6))
    with pytest.raises(SimulationError, match=r"cannot be built in a worker.*SettingsError.* lost"):
        env.reset()


class Parent:
    """Builds environments in one process only."""

    def __init__(self, pid):
        self.pid = pid

    def __call__(self):
        if os.getpid() != self.pid:
            raise RuntimeError("lost")
        return Slide()


# Ends


def test_workers_end_with_the_environment_that_nobody_holds():
    env = vec(SLIDES)
    env.reset()
    workers = pids()
    del env
    gc.collect()
    assert gone(workers)


def hold(link, fault, sent):
    """Another process with workers, one of which may hang; it is ended from outside."""
    env = vec(GymTasks(partial(Faulty, fault), SPEED, horizon=6))
    env.set_tasks({"speed": torch.tensor([0.0, 0.0, 0.0, 0.2])})
    env.reset()
    env.step(torch.zeros(4, 1))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    link.send(pids())
    if sent != "cut":
        env.step(torch.zeros(4, 1))
    time.sleep(100)


SLOW = [
    (signal.SIGKILL, "cut"),
    (signal.SIGKILL, "hang"),
    (signal.SIGTERM, "cut"),
    (signal.SIGTERM, "hang"),
]
SLOW += [(signal.SIGINT, "hang")]


@pytest.mark.parametrize(
    ("number", "fault"),
    [
        (signal.SIGKILL, "spin"),
        (signal.SIGINT, "cut"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW),
    ],
)
def test_workers_do_not_outlive_their_parent(number, fault, capfd):
    link, other = CONTEXT.Pipe()
    process = CONTEXT.Process(target=hold, args=(other, fault, fault))
    process.start()
    workers = link.recv()
    assert len(workers) == 2 and all(map(alive, workers))
    if fault != "cut":
        time.sleep(0.2)  # until it does
    # A terminal sends a signal to all. The parent comes last, because it ends its workers.
    for pid in [*workers, process.pid] if number != signal.SIGKILL else [process.pid]:
        os.kill(pid, number)
    process.join(20)
    assert not process.is_alive()
    assert gone(workers)
    process.close()


def test_interrupts_are_for_the_parent():
    env = vec(SLIDES)
    before = env.reset()[0]
    for pid in pids():
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGHUP)
    time.sleep(0.2)
    after = env.step(torch.zeros(4, 1))[0]
    assert after.isfinite().all() and not torch.equal(before, after)
    env.close()


STARTING = """
from metarl.sim import make_vec
from metarl.sim.gymnasium import workers
from metarl.runs.signals import StopSignals
from tests.sim.gymnasium.test_workers import SLIDES

if __name__ == "__main__":
    with StopSignals() as stop:
        workers._start_server()
        print("started", flush=True)
        env = make_vec(SLIDES, 4, device="cpu", workers=2)
        print(tuple(env.reset()[0].shape), stop.signal_name)
"""


def tell_blocked(link):
    link.send(signal.pthread_sigmask(signal.SIG_BLOCK, ()))


def test_other_processes_of_the_server_take_signals():
    env = vec(SLIDES)
    env.reset()
    link, other = CONTEXT.Pipe()
    process = CONTEXT.Process(target=tell_blocked, args=(other,))
    process.start()
    assert link.recv() == set()
    process.join()
    env.close()


@pytest.mark.slow
def test_an_interrupt_while_workers_start_is_for_the_parent_too(tmp_path):
    (tmp_path / "starting.py").write_text(STARTING)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "starting.py"], stdout=subprocess.PIPE, text=True,
        start_new_session=True, env={**os.environ, "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    assert process.stdout.readline() == "started\n"
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert process.communicate(timeout=100)[0] == "(4, 2) SIGINT\n"
