"""Outer updates of the user's: what the loop expects of them."""

import pytest
import torch

from metarl.adaptation import MAML, GradientLearner
from metarl.errors import SettingsError
from metarl.models import MLP
from metarl.tasks import Sine
from metarl.training import OuterLoop, TrainingSettings
from metarl.training.outer_update import MetaResult, OuterUpdate, UpdateSettings


class Signs(OuterUpdate):
    """Steps by the signs of the meta-gradient; `change` alters what it returns."""

    def __init__(self, learner, change=lambda result: result):
        self.learner, self.change, self.steps = learner, change, 0

    def __call__(self, inputs, iteration):
        result = self.learner(inputs)
        self.learner.zero_grad()
        result.losses.mean().backward()
        params = list(self.learner.parameters())
        norm = torch.cat([p.grad.flatten() for p in params]).norm()
        with torch.no_grad():
            for p in params:
                p -= 1e-3 * p.grad.sign()
        self.steps += 1
        return self.change(MetaResult(result.losses, result.metrics, result.carry, norm, True))

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]


class SignsSettings(UpdateSettings):
    """Builds `Signs`."""

    def __init__(self, **options):
        self.options = options

    def build(self, learner, training):
        return Signs(learner, **self.options)


def loop(folder, update, **changes):
    learner = GradientLearner(MAML(MLP((1, 4, 1), torch.Generator().manual_seed(0))))
    settings = TrainingSettings(iterations=2, meta_batch_size=3, eval_every=0)
    return OuterLoop(learner, Sine(), settings, folder, update=update, **changes)


def test_an_update_of_the_user_trains(tmp_path):
    training = loop(tmp_path / "run", SignsSettings())
    before = [p.detach().clone() for p in training.learner.parameters()]
    assert training.run().finished
    assert training.update.state_dict() == {"steps": 2}
    for p, old in zip(training.learner.parameters(), before, strict=True):
        assert (p - old).abs().max() <= 2.01e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda result: None, "Expected Signs to return a MetaResult .* got NoneType"),
        (lambda result: result._replace(losses=result.losses.mean()), r"got losses \[\]"),
        (lambda result: result._replace(grad_norm=1.0), "grad_norm that is a float"),
    ],
)
def test_results_that_cannot_be_logged_are_refused(change, message, tmp_path):
    with pytest.raises(SettingsError, match=message):
        loop(tmp_path / "run", SignsSettings(change=change)).run()


@pytest.mark.parametrize(
    ("update", "given"),
    [(lambda inputs, iteration: None, "function"), (Signs, "the class Signs"), (0, "int")],
)
def test_what_is_no_update_is_refused(update, given, tmp_path):
    with pytest.raises(SettingsError, match=f"Expected `update` to be an OuterUpdate.*{given}"):
        loop(tmp_path / "run", update)
