"""What families share."""

import torch

from metarl.sim import ControlTasks, normal
from metarl.trees import concatenate_tasks, take_tasks
from tests.sim.families import Drift, task_size


def test_normal_numbers_are_finite_and_follow_their_law():
    ends = normal(torch.tensor([0.0, 0.5, 1 - 2**-24, 1.0]))
    assert ends.isfinite().all()
    torch.testing.assert_close(ends[0], -ends[3])
    assert ends[1] == 0 and ends[3] > 5
    assert normal(torch.tensor([0.0], dtype=torch.float64)).isfinite().all()
    draws = normal(torch.rand(100_000, generator=torch.Generator().manual_seed(0)))
    assert draws.mean().abs() < 4 / 100_000**0.5
    assert (draws.std() - 1).abs() < 0.01
    assert ((draws < 1.96).float().mean() - 0.975).abs() < 0.003


def test_tasks_are_cut_and_joined_as_any_batch():
    tasks = Drift().sample(5, torch.Generator().manual_seed(0))
    assert tasks.num_tasks == 5
    assert tasks.info is tasks.values
    parts = [take_tasks(tasks, 0, 2), take_tasks(tasks, 2, 5)]
    assert [p.num_tasks for p in parts] == [2, 3]
    joined = concatenate_tasks(parts)
    assert isinstance(joined, ControlTasks)
    assert torch.equal(joined.values["speed"], tasks.values["speed"])


def test_how_much_an_oracle_is_told():
    assert task_size(Drift()) == 1


def test_a_task_never_ends_unless_its_family_says_so():
    kind = type("Endless", (Drift,), {"terminated": super(Drift, Drift()).terminated})
    state = {"place": torch.full((4,), 1e9)}
    ended = kind().terminated(state, {})
    assert ended.dtype == torch.bool and ended.shape == (4,) and not ended.any()
