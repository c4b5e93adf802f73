"""Ensembles: the mean of their learners' predictions."""

import pytest
import torch

from metarl.adaptation import MAML, GradientLearner
from metarl.errors import SettingsError
from metarl.evaluation.curves import adaptation_curve
from metarl.learners import Ensemble
from metarl.learners.metric.algorithms import MatchingAlgorithm, PrototypicalAlgorithm
from metarl.models import MLP
from metarl.tasks import Sine
from tests.image_problems import image_problem


def learners():
    generators = (torch.Generator().manual_seed(seed) for seed in range(2))
    algorithms = (MatchingAlgorithm(), PrototypicalAlgorithm())
    pairs = zip(algorithms, generators, strict=True)
    return [a.build(image_problem(g)) for a, g in pairs]


def test_it_averages_probabilities(glyphs):
    members = learners()
    tasks = glyphs.sample(2, torch.Generator().manual_seed(0))
    parts = []
    for member in members:
        (adapted,) = member.adapt(tasks.support, 0, torch.Generator())
        parts.append(member.predict(adapted, tasks.query.inputs).softmax(-1))
    ensemble = Ensemble(members)
    (adapted,) = ensemble.adapt(tasks.support, 0, torch.Generator())
    outputs = ensemble.predict(adapted, tasks.query.inputs)
    torch.testing.assert_close(outputs.exp(), (parts[0] + parts[1]) / 2)


def test_it_evaluates_like_any_learner(glyphs):
    curve = adaptation_curve(
        Ensemble(learners()), glyphs, num_tasks=4, steps=1, generator=torch.Generator()
    )
    assert curve.metric == "accuracy"
    assert not curve.transductive


def test_outputs_of_regression_are_averaged():
    maml = [
        GradientLearner(MAML(MLP((1, 8, 1), torch.Generator().manual_seed(s)), inner_lr=0.01))
        for s in range(2)
    ]
    tasks = Sine(shots=5, queries=5).sample(3, torch.Generator().manual_seed(0))
    ensemble = Ensemble(maml, average="outputs")
    generator = torch.Generator()
    *_, adapted = ensemble.adapt(tasks.support, 2, generator)
    parts = []
    for member in maml:
        *_, state = member.adapt(tasks.support, 2, generator)
        parts.append(member.predict(state, tasks.query.inputs))
    outputs = ensemble.predict(adapted, tasks.query.inputs)
    torch.testing.assert_close(outputs, (parts[0] + parts[1]) / 2)


def regression(**options):
    return GradientLearner(MAML(MLP((1, 8, 1), torch.Generator().manual_seed(0)), **options))


def test_values_have_no_probabilities(generator):
    tasks = Sine(shots=5, queries=5).sample(3, generator)
    members = [regression(), regression()]
    ensemble = Ensemble(members)
    for run in (ensemble.evaluate, ensemble.adapt_to):
        with pytest.raises(SettingsError, match=r'values.*Give `average="outputs"`'):
            list(run(tasks, 1, generator))
    with pytest.raises(SettingsError, match="values"):
        list(ensemble.adapt(tasks.support, 1, generator))
    adapted = tuple(list(m.adapt(tasks.support, 0, generator))[-1] for m in members)
    with pytest.raises(SettingsError, match=r"outputs \[3, 5, 1\]"):
        ensemble.predict(adapted, tasks.query.inputs)
    with pytest.raises(SettingsError, match="yes or no"):
        Ensemble([regression(metric="binary_accuracy")])


def test_what_is_no_ensemble_is_refused():
    with pytest.raises(SettingsError, match="at least one learner"):
        Ensemble([])
    for one in (learners()[0], [MAML(MLP((1, 8, 1), torch.Generator()))]):
        with pytest.raises(SettingsError, match=r"list of at least one learner.*got"):
            Ensemble(one)  # pyright: ignore[reportArgumentType]
    with pytest.raises(SettingsError, match="average"):
        Ensemble(learners(), average="votes")  # pyright: ignore[reportArgumentType]
    first, second = learners()
    other = GradientLearner(MAML(MLP((1, 8, 1), torch.Generator()), metric="mae"))
    with pytest.raises(SettingsError, match="got accuracy, mae"):
        Ensemble([first, other])
    with pytest.raises(SettingsError, match="train each of its learners"):
        Ensemble([first, second]).collect(None, torch.Generator(), 0)  # pyright: ignore
