"""Tables that `metarl adapt` reads for supervised learners."""

import numpy as np
import pytest
import torch

from metarl.adaptation import MAML, GradientLearner
from metarl.deploy.adapter import Origin
from metarl.deploy.adapting.supervised import adapt_on_images, adapt_on_table
from metarl.deploy.loading import adapter_of
from metarl.errors import DataError
from metarl.models import MLP

NAMES = {
    "plain": ("a", "b", "c", "y"),
    "numbered": ("x_0", "x_1", "x_2", "y_0"),
    "numbered from 1": ("x.1", "x.2", "x.3", "y"),
    "some are numbered": ("a", "x_0", "x_1", "y"),
}


@pytest.mark.parametrize("name", NAMES)
def test_columns_are_inputs_in_their_order_whatever_their_names(name, generator, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import csv, parquet

    values = np.random.default_rng(0).normal(size=(4, 12))
    *names, target = NAMES[name]
    table = pyarrow.table(dict(zip((*names, target), values, strict=True)))
    csv.write_csv(table, tmp_path / "table.csv")
    csv.write_csv(table, tmp_path / "table.tsv", csv.WriteOptions(delimiter="\t"))
    lists = {"x": list(values[:3].T), target: values[3]}
    parquet.write_table(pyarrow.table(lists), tmp_path / "table.parquet")
    learner = GradientLearner(MAML(MLP((3, 4, 1), generator), inner_lr=0.1))
    with torch.no_grad():
        theta = {n: p.unsqueeze(0) for n, p in learner.model.named_parameters()}
        inputs = torch.from_numpy(values[:3].T).float()[None]
        errors = (learner.model(theta, inputs)[0, :, 0].numpy() - values[3]) ** 2
    origin = Origin("", 0, {"input_shape": [3], "target_shape": [1], "labels": False})
    for kind in ("csv", "tsv", "parquet"):
        adapter = adapter_of(learner, origin)
        found = adapt_on_table(adapter, tmp_path / f"table.{kind}", target, 6, 1, 0)
        expected = [e for e in errors if np.isclose(e, found.before, rtol=1e-4).any()]
        assert len(expected) == len(found.before) == 6


def test_copies_that_systems_keep_are_no_images(generator, tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    for name in ("a/0.png", "a/1.png", "b/0.png", "b/1.png", "a/.DS_Store", ".git/x", "@eaDir/y"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\x00")
        if name.endswith("png"):
            pillow.new("L", (4, 4), len(name)).save(tmp_path / name)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
    origin = Origin("", 0, {"input_shape": [1, 4, 4], "labels": True, "classes": 2})
    adapter = adapter_of(GradientLearner(MAML(net)), origin)
    adapt_on_images(adapter, tmp_path, 1, 1, 0)
    assert adapter.classes is not None and adapter.classes[0].tolist() == ["a", "b"]


def test_a_table_of_labels_has_each_class_among_what_is_adapted_on(tmp_path):
    """A class without an example counts as errors otherwise, however good the learner is."""
    rows = [f"{row},{'rare' if row > 17 else 'common'}" for row in range(20)]
    (tmp_path / "table.csv").write_text("\n".join(["x,y", *rows]) + "\n")
    origin = Origin("", 0, {"input_shape": [1], "labels": True, "classes": 2})
    for seed in range(5):
        adapter = adapter_of(GradientLearner(MAML(torch.nn.Linear(1, 2))), origin)
        found = adapt_on_table(adapter, tmp_path / "table.csv", "y", None, 1, seed)
        assert len(found.before) == 10
        assert adapter.classes is not None
        assert adapter.classes[0].tolist() == ["common", "rare"]
    with pytest.raises(
        DataError, match=r"the 2 to adapt on, got none of \['rare'\]: adapt on more"
    ):
        adapt_on_table(adapter, tmp_path / "table.csv", "y", 2, 1, 1)
