import numpy as np
import pytest
import torch

from metarl.errors import DataError, SettingsError, ShapeError, TaskError
from metarl.tasks import FewShotData, Glyphs, with_descriptions

NAMES = ["ant", "bee", "cat", "dog"]
VECTORS = {name: [float(k), 2.0, -k] for k, name in enumerate(NAMES)}


def few_shot(**settings):
    x, labels = np.arange(40.0)[:, None], np.repeat(NAMES, 10)
    return FewShotData(x, labels, 3, 2, 2, **settings)


def check(tasks):
    info = tasks.sample(20, torch.Generator().manual_seed(0)).info
    classes = info["classes"].float()
    expected = torch.stack((classes, 0 * classes + 2, -classes), 2)
    assert torch.equal(info["descriptions"], expected)


def test_a_class_has_its_description():
    check(few_shot(descriptions=VECTORS))
    check(few_shot(descriptions={**VECTORS, "eel": [9, 9, 9]}))
    check(few_shot(descriptions=np.array(list(VECTORS.values()))))
    table = {"kind": [*NAMES, "eel"], "a": [0.0, 1, 2, 3, 9], "b": [2.0] * 5}
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({**table, "c": [0, -1, -2, -3, 9]}).sample(frac=1, random_state=1)
    check(few_shot(descriptions=frame, description_key="kind"))
    rows = {"kind": np.repeat(NAMES, 10), "x": np.arange(40.0)}
    check(FewShotData(rows, "kind", 3, 2, 2, descriptions=frame))
    with pytest.raises(SettingsError, match="`description_key`"):
        few_shot(descriptions=frame)
    with pytest.raises(TaskError, match="'ant' has two descriptions"):
        few_shot(descriptions=pd.concat((frame, frame)).sort_values("a"), description_key="kind")


def test_images_can_be_described():
    tasks = Glyphs(3, 1, 1, alphabets=2, characters=3, drawings=3)
    values = torch.arange(12.0).view(6, 2)
    described = with_descriptions(tasks, values)
    info = described.sample(4, torch.Generator().manual_seed(0)).info
    assert torch.equal(info["descriptions"], values[info["classes"]])
    assert "descriptions" not in tasks.sample(1, torch.Generator()).info


@pytest.mark.parametrize(
    ("descriptions", "error", "message"),
    [
        ({n: VECTORS[n] for n in NAMES[:3]}, TaskError, "'dog' has no description"),
        ({**VECTORS, "dog": [1.0]}, ShapeError, r"one length, got \[1, 3\]"),
        ({**VECTORS, "dog": ["x", "y", "z"]}, ShapeError, "Expected numbers"),
        ({**VECTORS, "dog": [1.0, np.nan, 0.0]}, DataError, "missing, infinite"),
        (np.zeros((3, 2)), ShapeError, r"Expected descriptions \[4, D\]"),
    ],
)
def test_bad_descriptions(descriptions, error, message):
    with pytest.raises(error, match=message):
        few_shot(descriptions=descriptions)
