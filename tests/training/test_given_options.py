"""A resumed run takes the options that its optimiser and scheduler are given now."""

import warnings

import pytest
import torch

from metarl.adaptation import MAML, GradientLearner
from metarl.models import MLP
from metarl.tasks import Sine
from metarl.training import TrainingSettings
from metarl.training.meta_step import MetaStep


def step(settings=None, **given):
    learner = GradientLearner(MAML(MLP((1, 4, 1), torch.Generator().manual_seed(0))))
    return MetaStep(learner, settings or TrainingSettings(), **given)


def train(update, first, last):
    for iteration in range(first, last):
        generator = torch.Generator().manual_seed(iteration)
        tasks = Sine().sample(3, generator)
        update(update.gradient.learner.collect(tasks, generator, iteration), iteration)
    return [p.detach().clone() for p in update.params]


def resumed(before, after, iterations=4):
    """Returns an update with other settings that continues one, with its weights."""
    train(before, 0, iterations)
    after.gradient.learner.load_state_dict(before.gradient.learner.state_dict())
    after.load_state_dict(before.state_dict())
    return after


def group(update):
    return update.optimizer.param_groups[0]


@pytest.mark.parametrize(
    ("settings", "option", "value"),
    [
        ({"weight_decay": 0.1}, "weight_decay", 0.1),
        ({"optimizer_options": ("betas=(0.5,0.9)",)}, "betas", (0.5, 0.9)),
        ({"optimizer": "adamw"}, "decoupled_weight_decay", True),
        ({"outer_lr": 0.5}, "lr", 0.5),
    ],
)
@pytest.mark.parametrize("older", [False, True])
def test_options_that_are_given_otherwise_count(settings, option, value, older):
    before, after = step(), step(TrainingSettings(**settings))
    train(before, 0, 2)
    state = before.state_dict()
    if older:
        state.pop("given_options")
    after.load_state_dict(state)
    train(after, 2, 3)
    assert group(after)[option] == value
    again = step(TrainingSettings(**settings))
    again.load_state_dict(after.state_dict())
    assert group(again)[option] == value


def test_options_that_a_run_has_changed_itself_stay():
    before = step()
    group(before)["weight_decay"] = 0.3
    after = resumed(before, step(TrainingSettings(optimizer_options=("eps=1e-6",))))
    assert (group(after)["weight_decay"], group(after)["eps"]) == (0.3, 1e-6)


def test_an_option_whose_state_is_missing_is_refused():
    before = step()
    train(before, 0, 2)
    amsgrad = step(TrainingSettings(optimizer_options=("amsgrad=True",)))
    with pytest.raises(ValueError, match="Adam that was changed needs the state 'max_exp_avg_sq'"):
        amsgrad.load_state_dict(before.state_dict())


def scheduled(schedule, *options, **settings):
    return step(TrainingSettings(schedule=schedule, schedule_options=options, **settings))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (("StepLR", "step_size=2"), ("StepLR", "step_size=3", "gamma=.5")),
        (("StepLR", "step_size=2"), ("ExponentialLR", "gamma=.5")),
        (("StepLR", "step_size=2"), ("CosineAnnealingLR", "T_max=9")),
        (("MultiStepLR", "milestones=[1,3]"), ("MultiStepLR", "milestones=[2,5]")),
    ],
)
def test_a_schedule_that_is_given_otherwise_is_as_if_it_had_been_from_the_start(before, after):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        update = resumed(scheduled(*before), scheduled(*after))
        whole = scheduled(*after)
        train(whole, 0, 4)
        for iteration in range(4, 7):
            assert group(update)["lr"] == pytest.approx(group(whole)["lr"], rel=1e-12)
            train(update, iteration, iteration + 1)
            train(whole, iteration, iteration + 1)


def test_a_longer_cycle_takes_the_run_to_its_end():
    options = ("max_lr=.1", "total_steps=4")
    before = scheduled("OneCycleLR", *options, iterations=4)
    after = scheduled("OneCycleLR", "max_lr=.1", "total_steps=8", iterations=8)
    resumed(before, after)
    whole = scheduled("OneCycleLR", "max_lr=.1", "total_steps=8", iterations=8)
    train(whole, 0, 4)
    names = ("lr", "betas", "max_lr", "min_lr", "initial_lr")
    assert [group(after)[n] for n in names] == [group(whole)[n] for n in names]
    train(after, 4, 8)


def test_another_rate_moves_the_schedule():
    before = scheduled("StepLR", "step_size=2")
    after = resumed(before, scheduled("StepLR", "step_size=2", outer_lr=0.5))
    assert group(after)["lr"] == pytest.approx(0.005)


def test_a_plateau_keeps_what_it_has_seen_and_takes_other_options():
    before = scheduled("ReduceLROnPlateau", "patience=5")
    after = resumed(before, scheduled("ReduceLROnPlateau", "patience=2", "factor=.5"))
    assert (after.scheduler.patience, after.scheduler.factor) == (2, 0.5)
    assert (after.scheduler.best, after.scheduler.last_epoch) == (before.scheduler.best, 4)


def test_a_schedule_that_needs_the_losses_so_far_is_refused():
    before = scheduled("StepLR", "step_size=2")
    with pytest.raises(ValueError, match="its scheduler is StepLR with other options"):
        resumed(before, scheduled("ReduceLROnPlateau"))


@pytest.mark.parametrize("schedule", [("StepLR", "step_size=2"), ("CyclicLR",)])
def test_the_same_schedule_continues_to_the_bit(schedule):
    options = schedule[1:] or ("base_lr=.01", "max_lr=.1", "step_size_up=3")
    settings = {"optimizer": "sgd", "optimizer_options": ("momentum=.5",)}
    whole = scheduled(schedule[0], *options, **settings)
    before, after = (scheduled(schedule[0], *options, **settings) for _ in range(2))
    expected = train(whole, 0, 7)
    got = train(resumed(before, after), 4, 7)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
