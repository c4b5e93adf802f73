"""`metarl adapt`: environments, logs, tables and images, before and after."""

import gymnasium
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import metarl
from metarl.adaptation import MAML, GradientLearner
from metarl.deploy.adapting.control import Adapted, _picture
from metarl.deploy.adapting.files import save_events
from metarl.deploy.adapting.supervised import adapt_on_table
from metarl.deploy.export.files import METADATA
from metarl.deploy.loading import load
from metarl.deploy.robot.changed_env import changed_env, parsed_values
from metarl.errors import DataError, SettingsError, UnknownNameError
from metarl.models import MLP
from metarl.tasks.base import Examples, TaskBatch
from metarl.tasks.data import GroupedExamples
from tests.deploy.conftest import train

SHORT = ("--episodes", 2, "--test-episodes", 3)


def test_a_policy_adapts_in_an_environment(trained, metarl, tmp_path):
    status, printed = metarl(
        "adapt", trained["navigation2d"], "--env", "metarl/Navigation2D-v1",
        "--set", "task={'goal': [0.3, -0.2]}", "--set", "horizon=10", *SHORT,
        "--out", tmp_path / "out", "--video", tmp_path / "film.gif",
    )  # fmt: skip
    assert status == 0, printed.err
    assert "before" in printed.out and "after" in printed.out
    assert "Adapted once from 2 episodes: 20 environment steps" in printed.out
    assert (tmp_path / "out" / "adapted.safetensors").is_file()
    assert list((tmp_path / "out").glob("events.out.tfevents*"))
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames >= 10


def test_a_folder_that_cannot_be_written_is_refused_before_the_adaptation(
    trained, metarl, tmp_path, monkeypatch
):
    (tmp_path / "file").touch()
    monkeypatch.setattr("metarl.commands.adapt._adapted", lambda *_: pytest.fail("it adapted"))
    arguments = ("--env", "metarl/Navigation2D-v1", "--out", tmp_path / "file")
    status, printed = metarl("adapt", trained["navigation2d"], *arguments)
    assert status == 1 and "Cannot write into the folder" in printed.err


def test_a_second_adaptation_replaces_the_files_of_the_first(tmp_path):
    adapted = Adapted("return", np.zeros(2), np.ones(2), [1.0, 2.0])
    for found in (adapted, adapted):
        save_events(found, tmp_path)
    (events,) = tmp_path.glob("events.out.tfevents*")
    assert events.stat().st_size
    save_events(Adapted("return", np.zeros(0), np.zeros(0)), tmp_path)  # on a log
    assert not list(tmp_path.iterdir())


def test_a_policy_adapts_on_a_log(trained, metarl, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rng = np.random.default_rng(0)
    table = pyarrow.table(
        {
            "episode": np.repeat([0, 1], 5), "reward": rng.normal(size=10),
            **{f"observation_{i}": 0.1 * rng.normal(size=10) for i in range(2)},
            **{f"action_{i}": 0.3 * rng.normal(size=10) for i in range(2)},
        }
    )  # fmt: skip
    parquet.write_table(table, tmp_path / "log.parquet")
    arguments = ("adapt", trained["navigation2d"], "--data", tmp_path / "log.parquet")
    status, printed = metarl(*arguments, "--behaviour", "start", "--out", tmp_path / "out")
    assert status == 0, printed.err
    assert "2 episodes of 10 steps, worth 10 of its own" in printed.out
    assert "tensorboard" not in printed.out  # nothing was measured
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["adapted.safetensors"]
    adapter = load(trained["navigation2d"])
    adapter.adapt(tmp_path / "log.parquet", behaviour="start", steps=3)
    options = ("--behaviour", "start", "--out", tmp_path / "out")
    status, printed = metarl(*arguments, *options, "--steps", 3)
    assert status == 0, printed.err
    saved = load_file(tmp_path / "out" / "adapted.safetensors")
    assert all(torch.equal(saved[n], value) for n, value in adapter.state().items())
    status, printed = metarl(*arguments, "--out", tmp_path / "out")
    assert status == 1 and "log-probabilities" in printed.err


def test_a_table_is_in_its_own_units_where_training_standardised_it(metarl, tmp_path):
    rng = np.random.default_rng(0)
    rows = {"angle": rng.uniform(80, 100, 40), "torque": rng.uniform(900, 1100, 40)}
    tasks = GroupedExamples(
        {**rows, "robot": np.arange(40) % 4}, group="robot", inputs="angle", targets="torque",
        shots=4, queries=4, standardise=True,
    )  # fmt: skip
    net = MLP((1, 4, 1), torch.Generator().manual_seed(0))
    _, folder = train(GradientLearner(MAML(net, 0.1)), tasks, tmp_path)
    np.savetxt(
        tmp_path / "rows.csv", np.stack([*rows.values()], 1), delimiter=",", comments="",
        header="angle,torque",
    )  # fmt: skip
    arguments = ("--target", "torque", "--out", tmp_path / "out")
    status, printed = metarl("adapt", folder, "--data", tmp_path / "rows.csv", *arguments)
    assert status == 0, printed.err
    assert "the errors are in the units of the table" in " ".join(printed.out.split())
    assert "do not fit" not in printed.err


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_supervised_learner_adapts_on_a_table(kind, trained, metarl, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import csv, parquet

    x = np.linspace(-5, 5, 20)
    table = pyarrow.table({"x": x, "y": np.sin(x)})
    path = tmp_path / f"table.{kind}"
    (csv.write_csv if kind == "csv" else parquet.write_table)(table, path)
    arguments = ("adapt", trained["sine"], "--data", path, "--out", tmp_path / "my out")
    status, printed = metarl(*arguments, "--target", "y", "--steps", 3)
    assert status == 0, printed.err
    assert f"tensorboard --logdir '{tmp_path / 'my out'}'" in printed.out
    assert "3 adaptation steps on 10 examples, measured on 10 others" in printed.out
    assert "squared error (10)" in printed.out
    status, printed = metarl(*arguments, "--target", "z")
    assert status == 1 and "the targets (--target) 'z'. Known: x, y" in printed.err
    status, printed = metarl(*arguments, "--target", "y", "--support", 30)
    assert status == 1 and "All 20 examples are to adapt on" in printed.err
    status, printed = metarl(*arguments, "--target", "y", "--support", -1)
    assert status == 1 and "`support` of at least 1" in printed.err
    named = table.append_column("name", [["a", "b"] * 10])
    wide = pyarrow.table({"x": x, "i": x, "y_0": x, "y_1": x})  # not tasks of two examples
    for other, message in (
        (named, "'name' are not"),
        (wide, "Expected 1 columns of inputs"),
        (table[:0], "with rows"),
    ):
        (csv.write_csv if kind == "csv" else parquet.write_table)(other, path)
        status, printed = metarl(*arguments, "--target", "y")
        assert status == 1 and message in printed.err


class Lines:
    """Tasks y = w x of four inputs and two outputs."""

    def sample(self, num_tasks, generator):
        inputs = torch.randn(num_tasks, 10, 4, generator=generator)
        targets = inputs @ torch.randn(num_tasks, 4, 2, generator=generator)
        return TaskBatch(Examples(inputs, targets), Examples(inputs, targets))


@pytest.mark.parametrize(
    ("inputs", "targets", "target", "kind"),
    [
        (("speed", "x_0", "load", "x_1"), ("y_0", "y_1"), "y", "csv"),
        (("x_1", "x_2", "x_3", "x_4"), ("y_0", "y_1"), "y", "parquet"),
        (("x.0", "x.1", "x.2", "x.3"), ("y.0", "y.1"), "y", "CSV"),
    ],
)
def test_numbered_columns_are_columns(inputs, targets, target, kind, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import csv, parquet

    network = MLP((4, 8, 2), torch.Generator().manual_seed(0))
    _, run = train(GradientLearner(MAML(network, 0.01)), Lines(), tmp_path / "run")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 4)), rng.normal(size=(20, 2))
    columns = dict(zip((*inputs, *targets), [*x.T, *y.T], strict=True))
    path, table = tmp_path / f"table.{kind}", pyarrow.table(columns)
    (parquet.write_table if kind == "parquet" else csv.write_csv)(table, path)
    found = adapt_on_table(metarl.load(run), path, target, None, 2, 0)
    lists = pyarrow.table({"x": list(x), "y": list(y)})
    parquet.write_table(lists, tmp_path / "lists.parquet")
    same = adapt_on_table(metarl.load(run), tmp_path / "lists.parquet", "y", None, 2, 0)
    np.testing.assert_allclose(found.after, same.after, rtol=1e-5)
    chosen = np.zeros(20, bool)
    chosen[np.random.default_rng(0).permutation(20)[:10]] = True
    adapter = metarl.load(run)
    adapter.adapt(x[chosen], y[chosen], steps=2)
    expected = ((adapter.predict(x[~chosen]) - y[~chosen]) ** 2).mean(1)
    np.testing.assert_allclose(found.after, expected, rtol=1e-5)
    numbered = table.add_column(0, "Unnamed: 0" if kind == "CSV" else "", [np.arange(20)])
    csv.write_csv(numbered, tmp_path / "numbered.csv")  # as pandas writes a table with its rows
    again = adapt_on_table(metarl.load(run), tmp_path / "numbered.csv", target, None, 2, 0)
    np.testing.assert_allclose(again.after, expected, rtol=1e-5)
    csv.write_csv(table.append_column("z_1", [x[:, 0]]), tmp_path / "more.csv")
    with pytest.raises(DataError, match=r"Expected 4 columns of inputs besides .* got 5: .*z_1"):
        adapt_on_table(metarl.load(run), tmp_path / "more.csv", target, None, 2, 0)


def test_images_in_folders(metarl, tmp_path):
    from tests.deploy.adapters.test_supervised_adapter import Shapes, image_learners

    _, run = train(image_learners()["gradient"], Shapes(), tmp_path / "run")
    rng = np.random.default_rng(0)
    for label, name in enumerate(("low", "middle", "top")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for n in range(4):
            pixels = (40 * rng.random((16, 16))).astype(np.uint8)
            pixels[4 * label : 4 * label + 4] += 200
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{n}.png")
    arguments = ("adapt", run, "--images", tmp_path / "images", "--out", tmp_path / "out")
    status, printed = metarl(*arguments, "--steps", 20)
    assert status == 0, printed.err
    assert "on 6 examples, measured on 6 others" in printed.out and "accuracy (6)" in printed.out
    status, printed = metarl(*arguments, "--support", 4)
    assert status == 1 and "All 12 examples are to adapt on" in printed.err
    status, printed = metarl("adapt", run, "--images", tmp_path / "none")
    assert status == 1 and "Cannot read the folder" in printed.err


@pytest.mark.parametrize(
    ("run", "arguments", "message"),
    [
        ("sine", (), "one of --env, --data and --images"),
        ("sine", ("--env", "CartPole-v1"), "supervised learner, got --env"),
        ("sine", ("--data", "no.parquet"), "Cannot read no.parquet"),
        ("sine", ("--data", "no.csv"), "Cannot read no.csv"),
        ("sine", ("--images", "."), "square images"),
        ("navigation2d", ("--images", "."), "for a policy, got --images"),
        ("navigation2d", ("--data", "log.parquet", "--set", "a=1"), "--env with --set"),
        ("navigation2d", ("--env", "CartPole-v1"), "Expected observations of 2 numbers"),
        ("navigation2d", ("--env", "CartPool-v1"), "Cannot make the environment"),
        ("navigation2d", ("--data", "log.parquet", "--video", "film.gif"), "--env with --video"),
        ("navigation2d", ("--env", "CartPole-v1", "--video", "film.txt"), "to end in .gif or .mp4"),
        ("navigation2d", ("--data", "log.csv", "--support", "3"), "no --support for a policy"),
        ("navigation2d", ("--data", "log.csv", "--adapt-every", "3"), "--env with --adapt-every"),
        ("navigation2d", ("--env", "a", "--behaviour", "start"), "--data with --behaviour"),
        ("sine", ("--data", "a.csv", "--behaviour", "start"), "this run is supervised"),
    ],
)
def test_what_does_not_suit_is_refused(run, arguments, message, trained, metarl, tmp_path):
    status, printed = metarl("adapt", trained[run], *arguments, "--out", tmp_path / "out")
    assert status == 1 and message in printed.err and "Traceback" not in printed.err
    assert not (tmp_path / "out").exists()


def test_a_run_folder_is_no_place_for_the_curve(copied, metarl):
    run = copied("navigation2d")
    before = sorted(p.name for p in run.iterdir())
    for out, expected in ((run, 1), (run / "adapted", 0)):
        arguments = ("--env", "metarl/Navigation2D-v1", "--set", "horizon=5", *SHORT, "--out", out)
        status, printed = metarl("adapt", run, *arguments)
        assert status == expected and ("no run folder" in printed.err) == bool(expected)
    assert sorted(p.name for p in run.iterdir() if p.name != "adapted") == before


def test_an_environment_that_cannot_be_filmed_is_named():
    class Blind:
        def render(self):
            raise gymnasium.error.DependencyNotInstalled("pygame is not installed")

    with pytest.raises(SettingsError, match=r"Cannot film .* pygame is not installed"):
        _picture(Blind())


@pytest.mark.parametrize(
    "picture",
    [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), [], None],
)
def test_pictures_that_are_none_are_refused(picture):
    class Painted:
        def render(self):
            return picture

    with pytest.raises(SettingsError, match=r"pictures for a film, uint8 \[height, width, 3\]"):
        _picture(Painted())


def test_an_export_is_no_run(metarl, tmp_path):
    (tmp_path / METADATA).write_text("{}")
    status, printed = metarl("adapt", tmp_path, "--env", "CartPole-v1")
    assert status == 1 and "Traceback" not in printed.err


def test_what_a_constructor_derives_follows_an_attribute():
    env = changed_env("CartPole-v1", parsed_values(["length=0.9", "masspole=0.2"])).unwrapped
    assert (env.length, env.masspole) == (0.9, 0.2)
    assert env.polemass_length == pytest.approx(0.18) and env.total_mass == pytest.approx(1.2)
    usual = changed_env("CartPole-v1", {}).unwrapped
    assert usual.length == 0.5 and usual.polemass_length == pytest.approx(0.05)


class Rod(gymnasium.Env):
    """Computes its inertia from an argument, and its angle in radians from one in degrees."""

    observation_space = action_space = gymnasium.spaces.Box(-1, 1, (2,))

    def __init__(self, length=1.0, angle=90.0, render_mode=None):
        self.length, self.inertia = float(length), length**2 / 3
        self.angle = np.radians(angle)


def test_what_a_constructor_derives_follows_its_argument(recwarn):
    gymnasium.register("Rod-v1", Rod, max_episode_steps=20)
    try:
        env = changed_env("Rod-v1", {"length": 3, "angle": 0.5, "max_episode_steps": 7})
    finally:
        del gymnasium.registry["Rod-v1"]
    assert (env.unwrapped.length, env.unwrapped.inertia) == (3, 3)
    assert env.unwrapped.angle == 0.5  # of the attribute
    assert env.spec.max_episode_steps == 7 and not recwarn.list


def test_keyword_arguments_and_unknown_names():
    env = changed_env("CartPole-v1", {"sutton_barto_reward": True})
    env.reset(seed=0)
    assert env.step(0)[1] == 0.0
    assert parsed_values(["a=false", "b=TRUE", "c=none"]) == {"a": False, "b": True, "c": None}
    with pytest.raises(SettingsError, match="Did you mean 'length'"):
        changed_env("CartPole-v1", {"lenght": 0.9})
    with pytest.raises(UnknownNameError, match="Cannot make"):
        changed_env("no_module:Env-v1", {})
    with pytest.raises(SettingsError, match="name=value"):
        parsed_values(["length"])


class Place(gymnasium.Env):
    """Its attributes are of several kinds."""

    observation_space = action_space = gymnasium.spaces.Box(-1, 1, (2,))
    gain, dense, note = 1.0, True, "a"

    def __init__(self):
        self.goal, self.count = np.array([1, 2], np.float32), 3


class Swallowing(Place):
    """Takes any keyword argument, and keeps some."""

    def __init__(self, depth=1, **kwargs):
        super().__init__()
        self.deep, self.kept = depth, {n: v for n, v in kwargs.items() if n == "config"}


def test_a_keyword_argument_that_is_swallowed_warns(monkeypatch):
    spec = gymnasium.envs.registration.EnvSpec("Swallowing-v0", entry_point=Swallowing)
    monkeypatch.setitem(gymnasium.registry, "Swallowing-v0", spec)
    with pytest.warns(RuntimeWarning, match=r"swallow them\? Did you mean 'depth'"):
        changed_env("Swallowing-v0", {"dept": 2})
    assert changed_env("Swallowing-v0", {"depth": 2}).unwrapped.deep == 2
    assert changed_env("Swallowing-v0", {"depth": 1}).unwrapped.deep == 1  # the usual value
    assert changed_env("Swallowing-v0", {"config": 2}).unwrapped.kept == {"config": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gain=9,81", "a number as 'gain'"),
        ("gain=1.5m", "a number as 'gain'"),
        ("gain=true", "a number as 'gain'"),
        ("count=abc", "a number as 'count'"),
        ("dense=no", "true or false as 'dense'"),
        ("dense=2", "true or false as 'dense'"),
        ("goal=1", "2 numbers"),
        ("goal=[1, 2, 3]", "2 numbers"),
        ("goal=near", "2 numbers"),
        ("gian=2", "Did you mean 'gain'. It has count, dense, gain, goal, note"),
    ],
)
def test_a_value_is_of_the_kind_of_its_attribute(text, message, monkeypatch):
    spec = gymnasium.envs.registration.EnvSpec("Place-v0", entry_point=Place)
    monkeypatch.setitem(gymnasium.registry, "Place-v0", spec)
    with pytest.raises(SettingsError, match=message):
        changed_env("Place-v0", parsed_values([text]))
    texts = ["gain=2", "dense=false", "goal=[3, 4.5]", "count=2.5", "note=b"]
    env = changed_env("Place-v0", parsed_values(texts)).unwrapped
    assert (env.gain, env.dense, env.count, env.note) == (2, False, 2.5, "b")
    assert env.goal.dtype == np.float32 and env.goal.tolist() == [3, 4.5]
