"""Data in the units of a table are standardised as in training, and predictions are in them."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from metarl.adaptation import MAML, GradientLearner
from metarl.deploy.loading import adapter_of, load
from metarl.errors import SettingsError
from metarl.models import MLP
from metarl.tasks.data import Forecasting, GroupedExamples
from metarl.tasks.scaling import Scaling
from metarl.training import OuterLoop, TrainingSettings

RNG = np.random.default_rng(0)
ROBOTS = np.repeat(np.arange(4), 12)
TABLE = {
    "robot": ROBOTS,
    "angle": RNG.uniform(80, 100, 48),
    "load": RNG.uniform(0.01, 0.02, 48),
    "torque": 1000 + 100 * ROBOTS + RNG.uniform(-50, 50, 48),
}
SERIES = [1000 + 50 * np.sin(np.arange(60) / (2 + k))[:, None].repeat(2, 1) for k in range(4)]


def trained(tasks, net, folder, rate=0.1):
    settings = TrainingSettings(iterations=2, meta_batch_size=2, eval_every=0)
    OuterLoop(MAML(net, inner_lr=rate), tasks, settings, folder).run()
    return folder


def grouped(standardise=True):
    return GroupedExamples(
        TABLE, group="robot", inputs=["angle", "load"], targets="torque", shots=4, queries=4,
        splits={"train": 0.5, "test": 0.5}, standardise=standardise,
    )  # fmt: skip


def forecasting(**more):
    return Forecasting(SERIES, history=6, horizon=2, splits={"train": 0.5, "test": 0.5}, **more)


@pytest.fixture(scope="module")
def table_run(tmp_path_factory):
    net = MLP((2, 4, 1), torch.Generator().manual_seed(0))
    return trained(grouped(), net, tmp_path_factory.mktemp("table") / "run")


@pytest.mark.parametrize("kind", ["table", "series"])
def test_they_equal_what_is_standardised_by_hand(kind, table_run, tmp_path):
    if kind == "table":
        tasks, folder = grouped(), table_run
        plain = grouped(standardise=False)
    else:
        tasks, plain = forecasting(standardise=True), forecasting()
        net = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Unflatten(1, (2, 2)))
        folder = trained(tasks, net, tmp_path / "run")
    batch = plain.sample(1, torch.Generator().manual_seed(1))
    x, y, queries = (t[0] for t in (*batch.support[:2], batch.query.inputs))
    scaling = tasks.scaling
    by_hand, adapter = load(folder), load(folder, standardise=True)
    assert adapter.standardises and not by_hand.standardises
    expected = by_hand.adapt(scaling.inputs(x), scaling.targets(y), steps=3)
    report = adapter.adapt(x.numpy(), y.numpy(), steps=3)
    assert report.loss_after == pytest.approx(expected.loss_after, rel=1e-5)
    wanted = scaling.restore(torch.from_numpy(by_hand.predict(scaling.inputs(queries))))
    np.testing.assert_allclose(adapter.predict(queries), wanted, rtol=1e-5)
    assert abs(wanted.mean() - y.mean()) < 300  # in the units of the table


def test_data_in_other_units_name_the_option(table_run):
    rows = np.stack((TABLE["angle"], TABLE["load"]), 1)
    adapter = load(table_run)
    with pytest.warns(RuntimeWarning, match=r"metarl\.load\(run, standardise=True\)"):
        adapter.adapt(rows[:8], (TABLE["torque"][:8] - 1000) / 100)
    with pytest.warns(RuntimeWarning, match=r"targets do not fit .* standardise=True"):
        adapter.adapt(np.zeros((8, 2)), TABLE["torque"][:8])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(table_run, standardise=True).adapt(rows[:8], TABLE["torque"][:8])


def test_what_cannot_be_standardised_is_refused(table_run, tmp_path):
    net = MLP((2, 4, 1), torch.Generator().manual_seed(0))
    raw = trained(grouped(standardise=False), net, tmp_path / "raw", 1e-9)
    with pytest.raises(SettingsError, match="leave out `standardise`"):
        load(raw, standardise=True)
    wide = GradientLearner(
        MAML(MLP((2, 4, 2), torch.Generator().manual_seed(0))),
        loss=lambda outputs, targets: (outputs[..., :1] - targets).square().mean((1, 2)),
    )
    adapter = adapter_of(wide, load(table_run).origin, standardise=True)
    adapter.adapt(np.array([[90, 0.015]] * 4), np.full(4, 1000.0))
    with pytest.raises(SettingsError, match=r"of the shape of a target, \[1\], .* got \[2\]"):
        adapter.predict(np.array([[90, 0.015]]))


@pytest.mark.parametrize(
    "change", [{"input_std": [0.0, 1.0]}, {"target_mean": [float("nan")]}, {"target_std": "1"}]
)
def test_scalings_of_files_are_checked(change):
    scaling = grouped().scaling.to_json()
    again = Scaling.from_json(scaling)
    assert all(torch.equal(a, b) for a, b in zip(again, grouped().scaling, strict=True))
    with pytest.raises(ValueError, match="the scaling is"):
        Scaling.from_json(scaling | change)
    with pytest.raises(ValueError, match="the scaling is"):
        Scaling.from_json({n: v for n, v in scaling.items() if n not in change})
