"""What the experiments on control tasks share, trained on a small family."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from metarl_envs.bandit import Bandit
from metarl_envs.bandit_strategies import EpsilonGreedyAlgorithm
from rich.table import Table
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metarl.adaptation import algorithms as learners
from metarl.errors import SettingsError
from metarl.lab import Experiment
from metarl.lab.control import ControlSettings, build_control
from metarl.lab.control_configs import (
    control_configs,
    rl2_config,
    strategy_config,
    varibad_config,
)
from metarl.rl.policy_learner import PolicyLearner
from metarl.rl.settings import PolicyGradientSettings
from metarl.runs.checkpoints import load_checkpoint
from metarl.runs.eval_file import read_curves
from metarl.runs.run_search import ResumePoint
from metarl.training import TrainingSettings
from metarl.training.trust_region import TrustRegionSettings

T, N, H, STEPS = 3, 2, 4, 2
MAML = ControlSettings(
    "maml", learners.MAMLAlgorithm(0.5, STEPS), PolicyGradientSettings(trajectories=N),
    TrustRegionSettings(),
    TrainingSettings(
        iterations=4, meta_batch_size=T, log_every=1, eval_every=1, eval_tasks=2, eval_steps=1,
        checkpoint_every=2,
    ),
    hidden=(4,), test_tasks=5, test_steps=1,
)  # fmt: skip
RL2 = rl2_config(MAML, 2, PolicyGradientSettings(N, clip=0.2), MAML.training, units=4)
VARIBAD = varibad_config(RL2, (4,), latent=2, elbo_terms=2, decoded_steps=3)
CONFIGS = control_configs(MAML, {"rl2": RL2, "varibad": VARIBAD})
PER_ITERATION = T * N * H * (STEPS + 1)


def build(settings):
    return build_control(settings, Bandit(arms=3, horizon=H))


def policies(settings):
    learner = build(settings).learner
    assert isinstance(learner, PolicyLearner)
    return learner


EXPERIMENT = Experiment("small", CONFIGS, build)


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Leaves out drawing, most of the time; the tests of the scripts look at figures."""
    blank = np.zeros((1, 1, 3), np.uint8)
    monkeypatch.setattr("metarl.plots.figures.figure_pixels", lambda figure: blank)
    monkeypatch.setattr("metarl.plots.figures.save_figure", lambda figure, path: None)


def train(settings, runs, resume=None):
    parts = build(replace(settings, runs=runs))
    loop = EXPERIMENT.open(replace(settings, runs=runs), parts, resume)
    result = loop.run()
    parts.report(loop)
    return loop, result


def test_environment_steps_are_logged_and_curves_stand_against_them(tmp_path):
    loop, _ = train(MAML, tmp_path)
    assert loop.learner.environment_steps == 4 * PER_ITERATION
    lines = read_curves(loop.folder)
    assert [line["environment_steps"] for line in lines] == [
        *(k * PER_ITERATION for k in (1, 2, 3, 4)), 4 * PER_ITERATION,
    ]  # fmt: skip
    found = EventAccumulator(str(loop.folder), size_guidance={"scalars": 0}).Reload()
    counted = [(e.step, e.value) for e in found.Scalars("perf/environment_steps")]
    assert counted == [(k, k * PER_ITERATION) for k in (1, 2, 3, 4)]
    curve = found.Scalars("by_environment_steps/eval_validation/return/step_1")
    assert [e.step for e in curve] == [k * PER_ITERATION for k in (1, 2, 3, 4)]
    assert [e.value for e in curve] == pytest.approx([line["mean"][1] for line in lines[:4]])


def test_a_run_whose_tasks_have_changed_since_says_so(tmp_path):
    first, _ = train(replace(MAML, training=replace(MAML.training, iterations=2)), tmp_path)
    later = Experiment("small", CONFIGS, lambda s: build_control(s, Bandit(arms=3, horizon=H + 1)))
    with pytest.warns(RuntimeWarning, match=f"other horizon, {H + 1} .in training {H}"):
        later.reopen(MAML, first.checkpoints.latest(), tmp_path / "report")


@pytest.mark.parametrize("name", ["maml", "promp", "reptile", "lstm", "rl2", "varibad"])
def test_a_resumed_run_equals_a_whole_one_to_the_bit(name, tmp_path):
    whole, _ = train(CONFIGS[name], tmp_path / "whole")
    short = replace(CONFIGS[name], training=replace(CONFIGS[name].training, iterations=2))
    first, _ = train(short, tmp_path / "cut")
    point = ResumePoint(first.folder, first.checkpoints.latest())
    second, _ = train(CONFIGS[name], tmp_path / "cut", point)
    assert second.learner.environment_steps == whole.learner.environment_steps > 0
    ends = [load_checkpoint(loop.checkpoints.latest()) for loop in (whole, second)]
    assert all(torch.equal(p, ends[1].weights[n]) for n, p in ends[0].weights.items())
    assert ends[0].state["carried"] == ends[1].state["carried"]
    # The line of the test curve at iteration 2 stays: it was of that iteration.
    curves = [
        [c for c in read_curves(end.folder) if c["split"] != "test"] for end in (whole, second)
    ]
    assert curves[0] == curves[1]


def test_untrained_baselines_have_no_meta_iterations(tmp_path):
    for name in ("random", "scratch"):
        loop, result = train(CONFIGS[name], tmp_path)
        assert result.finished and result.iteration == 0 and loop.learner.environment_steps == 0
        (line,) = read_curves(loop.folder)
        assert line["split"] == "test" and line["iteration"] == 0
        assert len(line["mean"]) == CONFIGS[name].test_steps + 1


def test_training_from_scratch_uses_as_many_environment_steps_as_meta_training():
    scratch = CONFIGS["scratch"]
    used = scratch.test_tasks * scratch.test_steps * N * H
    wanted = MAML.training.iterations * PER_ITERATION
    assert wanted - scratch.test_tasks * N * H < used <= wanted


def test_training_from_scratch_starts_each_task_again_and_learns_it():
    learner = policies(replace(CONFIGS["scratch"], gradients=PolicyGradientSettings(20)))
    generator = torch.Generator().manual_seed(0)
    tasks = learner.family.sample(10, generator)
    fresh = learner.policy.initial(generator, 10)["network.layers.0.weight"]
    assert not torch.equal(fresh[0], fresh[1])
    first, *_, last = learner.returns(tasks, 40, generator)
    assert last.mean() > first.mean() + 0.5
    assert not [p for p in learner.parameters() if p.requires_grad]


def test_configurations_differ_in_what_their_names_say():
    assert {s.algorithm for s in CONFIGS.values()} == set(CONFIGS)
    assert CONFIGS["fomaml"].learner == replace(MAML.learner, first_order=True)
    assert CONFIGS["metasgd"].learner.high == MAML.learner.inner_lr
    assert CONFIGS["oracle"].observe_task and not CONFIGS["pretrained"].observe_task
    for name, settings in CONFIGS.items():
        assert settings.gradients.trajectories == N, name
        if name not in ("random", "scratch", "ppo", "rl2", "varibad"):
            used = settings.training.iterations * (policies(settings).adaptation.steps + 1)
            assert used == MAML.training.iterations * (STEPS + 1), name
    mine = replace(MAML, hidden=(9,))
    assert control_configs(MAML, {"reptile": mine})["reptile"] is mine


def test_the_default_picture_is_a_table_of_returns(tmp_path):
    parts = build(replace(MAML, runs=tmp_path))
    loop = EXPERIMENT.open(replace(MAML, runs=tmp_path), parts)
    assert parts.show is not None
    picture = parts.show(loop, 2, None)
    assert isinstance(picture.drawing, Table)
    assert picture.name == "adaptation" and len(picture.drawing.columns) == 1 + 2 + 1
    assert picture.drawing.row_count == MAML.test_steps + 1
    loop.logger.close()


def test_steps_of_rl2_are_the_episodes_of_its_trials(tmp_path):
    assert RL2.test_steps == RL2.training.eval_steps == 1
    loop, _ = train(RL2, tmp_path)
    assert loop.learner.environment_steps == 4 * T * N * 2 * H
    found = EventAccumulator(str(loop.folder), size_guidance={"scalars": 0}).Reload()
    curve = found.Scalars("by_adaptation_steps/eval_test/return")
    assert [e.step for e in curve] == [0, 1]
    episodes = [e.value for e in curve]
    (whole,) = found.Scalars("eval_test/return/trial")
    assert whole.value == pytest.approx(sum(episodes))
    parts = build(replace(RL2, runs=tmp_path))
    again = EXPERIMENT.open(replace(RL2, runs=tmp_path), parts)
    caption = str(parts.report(again).caption)
    assert "all episodes of a trial together:" in caption


def test_strategies_are_judged_and_not_trained(tmp_path):
    greedy = strategy_config(RL2, "greedy", EpsilonGreedyAlgorithm())
    loop, result = train(greedy, tmp_path)
    assert result.finished and loop.learner.environment_steps == 0
    (line,) = read_curves(loop.folder)
    assert len(line["mean"]) == RL2.test_steps + 1
    with pytest.raises(SettingsError, match=r"nothing to meta-train: .*iterations 0, got"):
        build(replace(greedy, training=replace(greedy.training, iterations=1)))
    learner = build(greedy).learner
    with pytest.raises(SettingsError, match="EpsilonGreedy has nothing to train"):
        learner.collect(Bandit(3, H).sample(2, torch.Generator()), torch.Generator(), 0)


@pytest.mark.parametrize("counts", [{"test_tasks": 0}, {"test_steps": -1}])
def test_what_the_report_cannot_do_is_told_before_training(counts):
    with pytest.raises(SettingsError, match="test_tasks"):
        replace(MAML, **counts)


@pytest.mark.parametrize("change", ["test_steps", "eval_steps"])
def test_trials_that_a_transformer_cannot_play_are_refused_before_training(change):
    settings = rl2_config(
        MAML, 2, PolicyGradientSettings(1, clip=0.2), MAML.training, memory="attention"
    )
    build_control(settings, Bandit(horizon=4))
    if change == "test_steps":
        settings = replace(settings, test_steps=2)
    else:
        settings = replace(settings, training=replace(settings.training, eval_steps=2))
    with pytest.raises(SettingsError, match=r"at most 8 steps.*got 12.*--test-steps"):
        build_control(settings, Bandit(horizon=4))


class Undrawable(Bandit):
    """Its pictures fail."""

    def draw(self, axes, path, tasks):
        raise ValueError("no such color")


def test_a_report_does_not_end_with_errors_of_drawings(tmp_path, capsys):
    """After hours of training, a mistake in a drawing had left the run without its table."""

    def picture(*_args):
        raise IndexError("no such task")

    once = replace(MAML, training=replace(MAML.training, iterations=1), runs=tmp_path, film=1)
    parts = build_control(once, Undrawable(arms=3, horizon=H), draw=picture)
    loop = EXPERIMENT.open(once, parts, None)
    loop.run()
    assert isinstance(parts.report(loop), Table)
    said = capsys.readouterr().err
    assert "There is no film: `draw` of Bandit" in said and "ValueError: no such color" in said
    assert "There is no picture: IndexError: no such task" in said
