"""Several steps on the same rollouts whose finiteness is read later: the same as at once."""

import weakref
from dataclasses import replace

import pytest
import torch
from metarl_envs.navigation import Navigation2D

from metarl.adaptation import MAML
from metarl.errors import NonFiniteError
from metarl.rl.policies import policy_for
from metarl.rl.policy_learner import PolicyLearner
from metarl.rl.settings import PolicyGradientSettings
from metarl.runs.checkpoints import load_checkpoint
from metarl.training import OuterLoop
from metarl.training.meta_step import MetaStep
from metarl.training.proximal import ProximalSettings, ProximalUpdate
from metarl.trees import map_tensors
from tests.devices import on_cuda
from tests.graph_recorder import Recorder, Waits
from tests.training.test_captured_iteration import settings_of, state
from tests.training.test_late_results import ends
from tests.training.test_meta_gradient import TASKS

FAMILY = Navigation2D(horizon=5)
PARTS = pytest.mark.parametrize("minibatches", [1, pytest.param(3, marks=pytest.mark.slow)])


def make(late, minibatches, epochs=3, **changes):
    """Returns a learner, its update and its settings."""
    policy = policy_for(FAMILY, torch.Generator().manual_seed(0), hidden=(8,))
    learner = Breaking(MAML(policy, 0.1), FAMILY, PolicyGradientSettings(trajectories=4))
    settings = settings_of(outer_lr=2.0**-7, **changes)
    step = MetaStep(learner, settings, driver=Recorder() if late else None)
    return learner, ProximalUpdate(step, ProximalSettings(epochs, minibatches)), settings


@PARTS
def test_epochs_do_not_wait(minibatches):
    found = []
    for late in (False, True):
        generator = torch.Generator().manual_seed(0)
        learner, update, _ = make(late, minibatches)
        update.read_late()
        for i in range(4):
            inputs = learner.collect(FAMILY.sample(TASKS, generator), generator, i)
            with Waits(numbers=False) as waits:
                result = update(inputs, i)
            learner.after_update(result.carry)
            if late and i > 1:  # the first steps make the optimiser's state and the graphs
                assert waits.found == []
                assert isinstance(result.finite, torch.Tensor) and result.finite
        found.append((result.losses, result.metrics, learner.environment_steps, state(update.step)))
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_a_result_that_is_read_later_does_not_keep_the_rollouts():
    generator = torch.Generator().manual_seed(0)
    learner, update, _ = make(True, 1)
    update.read_late()
    for i in range(4):
        inputs = learner.collect(FAMILY.sample(TASKS, generator), generator, i)
        result = update(inputs, i)
        rollouts = weakref.ref(inputs)
        del inputs
    assert result.failed is not None and rollouts() is None


class Breaking(PolicyLearner):
    """In one iteration, the loss of task 1 is NaN once a weight has changed: in the second epoch.

    Attributes:
        breaks: The number of that iteration.
    """

    breaks = -1

    def collect(self, tasks, generator, iteration):
        inputs = super().collect(tasks, generator, iteration)
        if iteration == self.breaks:
            inputs.credit[1] = self._weight()
        return inputs

    def forward(self, inputs):
        result, marked = super().forward(inputs), inputs.credit != 0
        changed = marked & (inputs.credit != self._weight())
        return result._replace(losses=torch.where(changed, torch.nan, result.losses))

    def _weight(self):
        return next(p for p in self.policy.parameters() if p.dim() == 2).detach()[0, 0]


@PARTS
@pytest.mark.parametrize("options", [(), ("momentum=0.5",)])
def test_a_later_step_that_is_not_finite_takes_back_all_and_is_named(
    minibatches, options, tmp_path
):
    found = []
    changes = {"optimizer": "sgd", "optimizer_options": options, "iterations": 6, "log_every": 100}
    for late in (False, True):
        learner, update, settings = make(late, minibatches, eval_every=0, **changes)
        learner.breaks = 3
        run = OuterLoop(learner, FAMILY, settings, tmp_path / str(late), update=update)
        with pytest.raises(NonFiniteError) as error:
            run.run()
        assert run.iteration == 3 and learner.environment_steps == 3 * TASKS * 4 * 2 * 5
        found.append((str(error.value).replace(str(tmp_path / str(late)), ""), ends(run)))
    assert found[0][0] == found[1][0] and "meta-iteration 3, task(s) 1." in found[0][0]
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0, atol=0)


def test_the_first_iteration_reads_at_once_and_forgets_the_state_that_it_made():
    learner, update, _ = make(True, 1)
    learner.breaks = 0
    update.read_late()
    before = map_tensors(torch.clone, state(update.step))
    generator = torch.Generator().manual_seed(0)
    result = update(learner.collect(FAMILY.sample(TASKS, generator), generator, 0), 0)
    assert result.finite is False and result.losses.isnan().tolist() == [False, True, False]
    torch.testing.assert_close(state(update.step), before, rtol=0, atol=0)


@pytest.mark.gpu
def test_a_run_on_a_gpu_takes_back_all_epochs(tmp_path):
    learner, _, settings = make(False, 1, iterations=6, log_every=100, eval_every=0)
    learner.breaks = 3
    settings = replace(settings, device=str(on_cuda()))
    run = OuterLoop(learner, FAMILY, settings, tmp_path, update=ProximalSettings(3))
    with pytest.raises(NonFiniteError, match=r"meta-iteration 3, task\(s\) 1\."):
        run.run()
    assert run.iteration == 3 and learner.environment_steps == 3 * TASKS * 4 * 2 * 5
    weights = load_checkpoint(run.checkpoints.latest()).weights
    trained = {n: p.detach().cpu() for n, p in learner.named_parameters()}
    torch.testing.assert_close({n: weights[n].cpu() for n in trained}, trained, rtol=0, atol=0)
