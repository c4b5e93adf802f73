"""The outer loop: resuming, stopping, failing."""

import json
import os
import shutil
import signal

import pytest
import torch

from metarl.errors import CheckpointError, MetarlError, NonFiniteError, SettingsError
from metarl.evaluation.curves import adaptation_curve
from metarl.models import MLP, Conv4
from metarl.runs.checkpoints import Checkpoints, load_checkpoint, load_weights
from metarl.runs.eval_file import read_curves
from metarl.runs.run_search import named_run
from metarl.tasks import Examples, Glyphs, Sine, TaskBatch
from metarl.training import OuterLoop, TrainingSettings
from metarl.training.validation import VALIDATION_SEED, validation_curve
from tests.gradient_learners import MAML, LearnedOptimizer, Reptile

SETTINGS = {"meta_batch_size": 4, "log_every": 2, "eval_every": 4, "eval_tasks": 3, "eval_steps": 2}


def make_learner(name):
    generator = torch.Generator().manual_seed(0)
    model = MLP((1, 8, 1), generator)
    if name == "maml":
        return MAML(model, 0.01, 2)
    if name == "reptile":
        return Reptile(model, 0.01, 3, batch_size=4)
    return LearnedOptimizer(model, generator, steps=6, unroll=2)


def loop(name, folder, iterations, *, resume=None, tasks=None, config=None, every=3, **changes):
    settings = TrainingSettings(
        iterations=iterations, checkpoint_every=every, schedule="constant", **SETTINGS, **changes
    )
    return OuterLoop(
        make_learner(name),
        tasks or Sine(6, 6),
        settings,
        folder,
        validation=Sine(6, 6).split("validation"),
        resume=resume,
        config=config,
    )


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "sine" / "maml" / "run"


@pytest.mark.parametrize("name", ["maml", "reptile", "learned-optimizer"])
def test_resumed_equals_uninterrupted_to_the_bit(name, tmp_path):
    whole = loop(name, tmp_path / "a" / "b" / "whole", 8)
    whole.run()
    first = loop(name, tmp_path / "a" / "b" / "cut", 5)
    first.run()
    second = loop(name, tmp_path / "a" / "b" / "cut", 8, resume=first.checkpoints.latest())
    assert second.iteration == 5
    second.run()
    ends = [load_checkpoint(run.checkpoints.latest()) for run in (whole, second)]
    assert [end.iteration for end in ends] == [8, 8]
    for n, p in ends[0].weights.items():
        assert torch.equal(p, ends[1].weights[n]), n
    assert torch.equal(ends[0].state["generator"], ends[1].state["generator"])
    curves = [read_curves(run.folder) for run in (whole, second)]
    assert [line["iteration"] for line in curves[1]] == [4, 5, 8]  # 5: the end of the first part
    assert curves[0] == [curves[1][0], curves[1][2]]


def test_another_seed_gives_another_run(tmp_path):
    runs = [loop("maml", tmp_path / "a" / "b" / str(seed), 2, seed=seed) for seed in (0, 1)]
    for run in runs:
        run.run()
    weights = [run.learner.state_dict()["model.layers.0.weight"] for run in runs]
    assert not torch.equal(*weights)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_save_and_leave(folder, number):
    class SignalAtThird(Tasks):
        def after(self, count):
            if count == 3:
                os.kill(os.getpid(), number)

    run = loop("maml", folder, 1000, tasks=SignalAtThird(), every=1000)
    result = run.run()
    assert (result.iteration, result.finished, result.stopped_by) == (3, False, number.name)
    assert load_checkpoint(run.checkpoints.latest()).iteration == 3


class Tasks:
    """Sine tasks that do something after so many samples."""

    def __init__(self):
        self.count = 0

    def split(self, name):
        return self

    def after(self, count):
        """Does nothing."""

    def sample(self, num_tasks, generator):
        self.count += 1
        self.after(self.count)
        return self.spoil(Sine(6, 6).sample(num_tasks, generator))

    def spoil(self, tasks):
        return tasks


class NotANumber(Tasks):
    """Gives task 2 of the sixth batch a target that is not a number."""

    def spoil(self, tasks):
        if self.count != 6:
            return tasks
        targets = tasks.query.targets.clone()
        targets[2, 0] = float("nan")
        return TaskBatch(tasks.support, Examples(tasks.query.inputs, targets))


def test_a_loss_that_is_not_finite_stops_the_run_and_loses_nothing(folder):
    run = loop("maml", folder, 100, tasks=NotANumber())
    with pytest.raises(NonFiniteError, match=r"meta-iteration 5, task\(s\) 2\b.*step_000005") as e:
        run.run()
    assert "max_grad_norm" in str(e.value)
    good = load_checkpoint(run.checkpoints.latest())
    assert good.iteration == 5
    assert all(torch.isfinite(p).all() for p in good.weights.values())
    resumed = loop("maml", folder, 8, resume=good.path)
    assert resumed.run().finished


class Steep(Tasks):
    """Has targets of a size at which the inner loop diverges."""

    def spoil(self, tasks):
        support, query = (Examples(e.inputs, 1e6 * e.targets) for e in (tasks.support, tasks.query))
        return TaskBatch(support, query)


class NoInput(Tasks):
    """Has an input that is not a number in a support set."""

    def spoil(self, tasks):
        inputs = tasks.support.inputs.clone()
        inputs[1, 0] = float("nan")
        return TaskBatch(Examples(inputs, tasks.support.targets), tasks.query)


@pytest.mark.parametrize(
    ("tasks", "advice"),
    [
        (
            Steep(),
            r"The inner loop diverges: the support loss of task 0 before each inner step",
        ),
        (NoInput(), r"support loss is not finite before the first inner step\. Check the range"),
        (NotANumber(), r"support losses are finite and the outer loss is not: the last inner step"),
    ],
)
def test_a_loss_that_is_not_finite_says_which_loop_diverged(folder, tasks, advice):
    generator = torch.Generator().manual_seed(0)
    learner = MAML(MLP((1, 10, 1), generator), 0.1, 5)
    settings = TrainingSettings(iterations=9, **SETTINGS)
    with pytest.raises(NonFiniteError, match=advice) as error:
        OuterLoop(learner, tasks, settings, folder).run()
    assert ("`max_inner_grad_norm`" in str(error.value)) == (not isinstance(tasks, NoInput))


def test_clipped_inner_gradients_keep_the_loop_finite(folder):
    generator = torch.Generator().manual_seed(0)
    learner = MAML(MLP((1, 10, 1), generator), 0.1, 5, max_inner_grad_norm=1.0)
    settings = TrainingSettings(iterations=9, **SETTINGS)
    assert OuterLoop(learner, Steep(), settings, folder).run().finished


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="file"):
        loop("maml", tmp_path / "file" / "run", 5)


def test_a_run_folder_or_a_copy_of_a_checkpoint_is_resumed(folder, tmp_path):
    first = loop("maml", folder, 3)
    first.run()
    copy = shutil.copytree(first.checkpoints.latest(), tmp_path / "best")
    for resume in (folder, str(folder), folder / "checkpoints", folder / "learner.json"):
        assert loop("maml", folder, 6, resume=resume).iteration == 3
    assert loop("maml", tmp_path / "other", 6, resume=copy).iteration == 3
    with pytest.raises(
        CheckpointError, match=r"There is no run folder .*nothing.*run \(step_000003"
    ):
        loop("maml", folder, 6, resume=folder.parent / "nothing")
    with pytest.raises(CheckpointError, match="Resume that run, with resume="):
        loop("maml", folder, 6)


def test_truncated_checkpoints_are_named_and_the_one_before_is_offered(folder):
    run = loop("maml", folder, 6)
    run.run()
    latest = run.checkpoints.latest()
    weights = latest / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-20])
    with pytest.raises(CheckpointError, match=r"step_000006.*step_000004"):
        loop("maml", folder, 8, resume=latest)


def test_other_settings_on_resuming_are_told(folder):
    run = loop("maml", folder, 3)
    run.run()
    latest = run.checkpoints.latest()
    for name, changes in (("maml", {"optimizer": "sgd"}), ("learned-optimizer", {})):
        with pytest.raises(CheckpointError, match=r"another network, algorithm or optimiser"):
            loop(name, folder, 6, resume=latest, **changes)


def test_logged_tags(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = loop("maml", folder, 4)
    run.run()
    run.logger.close()
    events = EventAccumulator(str(folder), {"scalars": 0})
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"train/mse/step_2", "inner/loss/step_0", "inner/loss/step_1"} <= tags
    assert {"meta/loss", "meta/grad_norm", "perf/iterations_per_s"} <= tags
    assert {"eval_validation/mse/step_0", "eval_validation/mse/step_2"} <= tags
    assert [e.step for e in events.Scalars("meta/loss")] == [2, 4]


def test_the_dashboard_has_columns_of_what_was_measured(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    run = loop("maml", folder, 4, config={"shots": 6})
    run.run()
    run.logger.close()
    events = EventAccumulator(str(folder), {"scalars": 0})
    events.Reload()
    content = events.SummaryMetadata("_hparams_/experiment").plugin_data.content
    experiment = plugin_data_pb2.HParamsPluginData.FromString(content).experiment
    columns = [info.name.tag for info in experiment.metric_infos]
    assert columns == ["eval_validation/mse/mean"]
    assert set(columns) <= set(events.Tags()["scalars"])


def test_validation_curves_of_networks_with_batch_norm_are_transductive(folder):
    """One pass for all queries; what a run logs says so."""
    tasks = Glyphs(2, 1, 3, alphabets=2, characters=3, drawings=4)
    model = Conv4(2, torch.Generator().manual_seed(0), filters=4)
    settings = TrainingSettings(iterations=1, checkpoint_every=1, **{**SETTINGS, "eval_every": 1})
    run = OuterLoop(MAML(model, 0.1), tasks, settings, folder, validation=tasks)
    run.run()
    run.logger.close()
    (line,) = [json.loads(text) for text in (folder / "eval.jsonl").read_text().splitlines()]
    assert line["transductive"] is True
    expected = adaptation_curve(
        run.learner, tasks, num_tasks=3, steps=2, transductive=True,
        generator=torch.Generator().manual_seed(VALIDATION_SEED),
    )  # fmt: skip
    assert line["mean"] == expected.values.double().mean(1).tolist()


def test_a_training_that_on_curve_ends_is_saved_and_continues(folder):
    class EnoughError(Exception):
        pass

    def stop(curve):
        raise EnoughError(curve.metric)

    stopped = loop("maml", folder, 8, every=100)
    stopped.on_curve = stop
    with pytest.raises(EnoughError) as caught:
        stopped.run()
    assert "step_000004" in caught.value.__notes__[0]
    stopped.logger.close()
    resumed = loop("maml", folder, 8, resume=str(folder / "checkpoints" / "step_000004"))
    resumed.run()
    whole = loop("maml", folder.with_name("whole"), 8)
    whole.run()
    for p, expected in zip(resumed.learner.parameters(), whole.learner.parameters(), strict=True):
        assert torch.equal(p, expected)
    assert [line["iteration"] for line in read_curves(folder)] == [4, 8]


class WithoutGenerator:
    """Draws from torch's own generator."""

    def sample(self, num_tasks):
        raise AssertionError


@pytest.mark.parametrize(
    ("source", "advice"),
    [
        ("sine", "docs/your_data.md"),
        (torch.utils.data.DataLoader([0, 1]), "docs/your_data.md"),
        (Sine, r"Pass an instance: Sine\(...\)"),
        (Sine().sample(2, torch.Generator()), "A batch is one sample"),
        (WithoutGenerator(), r"`sample\(num_tasks\)` does not take these arguments"),
    ],
)
def test_what_no_tasks_can_be_sampled_from(source, advice, folder):
    learner = make_learner("maml")
    settings = TrainingSettings(iterations=1, device="cpu")
    with pytest.raises(SettingsError, match=f"(?s)Expected training tasks .*{advice}"):
        OuterLoop(learner, source, settings, folder)
    with pytest.raises(SettingsError, match="Expected validation tasks"):
        OuterLoop(learner, Sine(), settings, folder, validation=source)
    with pytest.raises(SettingsError, match="Expected tasks as"):
        adaptation_curve(
            learner, source, num_tasks=2, steps=1, generator=torch.Generator(), chunk_size=2
        )


def test_a_device_of_torch():
    settings = TrainingSettings(device=torch.device("cuda", 1))
    assert settings == TrainingSettings(device="cuda:1")


class MovesAway(Sine):
    """Changes the working directory, as the environments of some simulators do."""

    def sample(self, num_tasks, generator):
        os.chdir("/")
        return super().sample(num_tasks, generator)


def test_tasks_may_change_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = loop("maml", "runs/here", 2, tasks=MovesAway(6, 6))
    assert run.run().finished
    run.logger.close()
    assert load_checkpoint(tmp_path / "runs/here/checkpoints/step_000002").iteration == 2


def test_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    run = loop("maml", "~/runs/mine", 1)
    run.run()
    newest = run.checkpoints.latest()
    assert newest.is_relative_to(tmp_path / "runs" / "mine")
    at_home = f"~/{newest.relative_to(tmp_path)}"
    assert loop("maml", "~/runs/mine", 2, resume=at_home).iteration == 1
    with pytest.raises(SettingsError, match="Expected `folder` to be a path, got None"):
        loop("maml", None, 1)


def test_the_checkpoint_of_the_best_validation_value_is_kept(folder):
    """The rate is so high that the loss rises again; a resumed run keeps what was best."""
    options = {"every": 100, "keep_checkpoints": 1, "outer_lr": 0.5}
    for iterations in (40, 60):
        latest = Checkpoints(folder / "checkpoints").latest()
        run = loop("maml", folder, iterations, resume=latest, **options)
        run.run()
        run.logger.close()
        curves = {line["iteration"]: line["mean"][-1] for line in read_curves(folder)}
        best = min(curves, key=curves.__getitem__)
        assert best < 40
        kept = sorted(path.name for path in (folder / "checkpoints").iterdir())
        assert kept == [f"step_{best:06d}", f"step_{iterations:06d}"]
    learner = make_learner("maml")
    load_weights(learner, load_checkpoint(named_run(folder / "best")).weights)
    validation = Sine(6, 6).split("validation")
    curve = validation_curve(learner, validation, run.settings, torch.device("cpu"))
    assert curve.values.double().mean(1)[-1].item() == curves[best]


def test_an_error_on_validation_tasks_says_so(folder):
    tasks = Glyphs(2, 1, 3, alphabets=2, characters=4, drawings=4)
    model = Conv4(2, torch.Generator().manual_seed(0), filters=4)
    settings = TrainingSettings(iterations=1, checkpoint_every=1, **{**SETTINGS, "eval_every": 1})
    validation = Glyphs(3, 1, 3, alphabets=2, characters=4, drawings=4)
    run = OuterLoop(MAML(model, 0.1), tasks, settings, folder, validation=validation)
    with pytest.raises(MetarlError) as caught:
        run.run()
    assert "on the validation tasks" in caught.value.__notes__[0]
