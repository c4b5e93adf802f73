"""Random settings, from Python and from a command line."""

import dataclasses
import json
import math
from numbers import Real

import pytest
import torch
from hypothesis import strategies as st

from metarl.adaptation import GradientLearner
from metarl.lab import EXPERIMENTS, find_experiment
from metarl.lab.command_line import parse_settings, settings_from
from metarl.models import MLP
from metarl.runs.run_folder import to_json
from metarl.tasks import Sine
from metarl.training import OuterLoop, TrainingSettings
from tests.fuzz.outcomes import LONGEST_MESSAGE, RefusedError, explore
from tests.fuzz.values import FLOATS, INTS, TEXTS, VALUES
from tests.test_all_algorithms import ALGORITHMS
from tests.test_ranges import all_settings, parts

SETTINGS = [s for s in all_settings() if any(f.init for f in dataclasses.fields(s))]


def numbers(value):
    """Yields the numbers in a value of a setting."""
    if isinstance(value, Real):
        yield value
    elif isinstance(value, tuple | list):
        for element in value:
            yield from numbers(element)


def check_settings(settings, default):
    """Checks that settings are plain values, which a run's config.json restores."""
    for field in dataclasses.fields(settings):
        if field.init:
            value = getattr(settings, field.name)
            assert all(type(n) in (bool, int, float) for n in numbers(value)), (field.name, value)
            assert all(math.isfinite(n) for n in numbers(value))
            hash(value)
    restored = settings_from(default, json.loads(json.dumps(to_json(settings))))
    assert restored == settings


@st.composite
def changed_settings(draw):
    settings = draw(st.sampled_from(SETTINGS))
    names = [f.name for f in dataclasses.fields(settings) if f.init]
    name = draw(st.sampled_from(names))
    current = getattr(settings, name)
    alike = {bool: st.booleans(), int: INTS, float: FLOATS, str: TEXTS}.get(type(current), VALUES)
    if isinstance(current, tuple):
        alike = st.lists(st.one_of(INTS, FLOATS, TEXTS), max_size=3)
    return settings, name, draw(st.one_of(VALUES, alike, alike))


@pytest.mark.parametrize("inputs", [400, pytest.param(6000, marks=pytest.mark.slow)])
def test_settings_of_random_values(inputs, outcomes):
    def check(case):
        settings, name, value = case
        with outcomes.one():
            check_settings(dataclasses.replace(settings, **{name: value}), settings)

    explore(changed_settings(), inputs, check)


ARGUMENTS = st.one_of(
    TEXTS, INTS.filter(lambda n: abs(n) < 10**300).map(str), FLOATS.map(str), st.just("true")
)


def options(settings, prefix=""):
    """Yields the options of a command line, --training.seed and so on."""
    for field in dataclasses.fields(settings):
        value, name = getattr(settings, field.name), prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            yield from options(value, f"{name}.")
        else:
            yield f"--{name}"


@st.composite
def command_lines(draw):
    name = draw(st.sampled_from(EXPERIMENTS.names()))
    configs = find_experiment(name).configs
    algorithm = draw(st.sampled_from(list(configs)))
    known = [o for o in options(configs[algorithm]) if o not in ("--algorithm", "--resume")]
    words = [f"--algorithm={algorithm}"] if draw(st.booleans()) else ["--algorithm", algorithm]
    for _ in range(draw(st.integers(1, 3))):
        option = draw(st.one_of(st.sampled_from(known), st.sampled_from(known), TEXTS))
        value = draw(ARGUMENTS)
        words += draw(st.sampled_from([[option, value], [f"{option}={value}"], [option]]))
    return name, algorithm, words


@pytest.mark.parametrize("inputs", [40, pytest.param(1200, marks=pytest.mark.slow)])
def test_command_lines_of_random_words(inputs, outcomes, capsys):
    def check(case):
        name, algorithm, words = case
        configs = find_experiment(name).configs
        with outcomes.one():
            try:
                settings, _ = parse_settings(configs, name, words)
            except SystemExit as end:  # tyro prints what is wrong, or the help
                printed = capsys.readouterr()
                assert end.code == (0 if printed.out else 2)
                raise RefusedError((printed.out or printed.err)[:LONGEST_MESSAGE]) from end
            for part in parts(settings):
                check_settings(
                    part, next(p for p in parts(configs[algorithm]) if type(p) is type(part))
                )

    explore(command_lines(), inputs, check)


RATES = st.one_of(
    st.floats(1e-6, 10),
    st.floats(0, exclude_min=True),
    st.sampled_from([1e-300, 1e20, 1e38, 1e300]),
)


@st.composite
def gradient_options(draw):
    """Options of a gradient algorithm of usual types; sizes are small."""
    options = ALGORITHMS[draw(st.sampled_from(sorted(ALGORITHMS)))]
    changes = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if draw(st.booleans()) or not field.init:
            continue
        if isinstance(value, bool):
            changes[field.name] = draw(st.booleans())
        elif isinstance(value, int):
            changes[field.name] = draw(st.integers(0, 4))
        elif isinstance(value, float) or field.name == "max_inner_grad_norm":
            changes[field.name] = draw(RATES)
        elif field.name == "frozen":
            changes[field.name] = draw(st.sampled_from([(), ("*",), ("*.0.*",), ("none",), ("[",)]))
        elif value is None or field.name == "batch_size":
            changes[field.name] = draw(st.one_of(st.none(), st.integers(-1, 9)))
    training = {
        "outer_lr": draw(RATES),
        "schedule": draw(st.sampled_from(["constant", "linear", "cosine"])),
        "optimizer": draw(st.sampled_from(["adam", "sgd"])),
        "max_grad_norm": draw(st.one_of(st.none(), RATES)),
        "task_chunk_size": draw(st.one_of(st.none(), st.integers(-1, 4))),
        "iterations": draw(st.integers(-1, 3)),
        "meta_batch_size": draw(st.integers(-1, 4)),
    }
    kept = draw(st.sets(st.sampled_from(sorted(training)), max_size=3))
    return options, changes, {name: training[name] for name in kept}


@pytest.mark.parametrize("inputs", [40, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:The mse of task:RuntimeWarning")
def test_runs_with_random_options(inputs, outcomes, tmp_path):
    """A run ends with finite weights, or says why not."""
    numbers = iter(range(10**6))

    def check(case):
        options, changes, training = case
        generator = torch.Generator().manual_seed(0)
        folder = tmp_path / str(next(numbers))
        with outcomes.one():
            chosen = dataclasses.replace(options, **changes)
            settings = TrainingSettings(
                **{
                    "iterations": 2,
                    "meta_batch_size": 2,
                    "eval_every": 1,
                    "eval_tasks": 2,
                    "eval_steps": 1,
                    "checkpoint_every": 1,
                    **training,
                }
            )
            model = MLP((1, 5, 1), generator)
            learner = GradientLearner(chosen.clipped_adaptation(model, generator))
            loop = OuterLoop(learner, Sine(3, 3), settings, folder, validation=Sine(3, 3))
            try:
                assert loop.run().iteration == settings.iterations
            finally:
                loop.logger.close()
            assert all(bool(w.isfinite().all()) for w in learner.state_dict().values())

    explore(gradient_options(), inputs, check)
