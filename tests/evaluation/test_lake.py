import zipfile

import pytest
import torch

from metarl.errors import ContaminationError, DataError, ShapeError
from metarl.evaluation.lake import EVALUATION_ALPHABETS, check_uncontaminated, load_lake_runs
from metarl.tasks.omniglot import Omniglot
from tests.evaluation.hausdorff import modified_hausdorff
from tests.evaluation.lake_mistakes import lake_error, lake_mistakes
from tests.tasks.drawn_archives import write_minimal, write_runs

ORDER = [7, 8, 1, 18, 9, 17, 12, 0, 3, 10, 16, 2, 19, 6, 11, 4, 5, 14, 13, 15]


def nearest_pixels(training, test):
    return torch.cdist(test.flatten(2), training.flatten(2))


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "all_runs.zip"
    write_runs(path, order=ORDER)
    return path


@pytest.fixture(scope="module")
def official_runs(official_data):
    return load_lake_runs(official_data / "one_shot_runs_01-10.zip", 105)


def test_the_hausdorff_distance_errs_as_published_on_the_first_ten_runs(official_runs):
    mistakes = lake_mistakes(official_runs, modified_hausdorff)
    assert mistakes.sum(1).tolist() == [9, 7, 8, 5, 6, 3, 12, 7, 8, 11]
    assert 100 * mistakes.double().mean().item() == 38.0


def test_official_runs_at_both_sizes(official_data, official_runs):
    small = load_lake_runs(official_data / "one_shot_runs_01-10.zip")
    assert small.training.shape == small.test.shape == (10, 20, 1, 28, 28)
    assert official_runs.training.shape == (10, 20, 1, 105, 105)
    assert official_runs.training.unique().tolist() == [0.0, 1.0]
    assert official_runs.names == tuple(f"run{n:02d}" for n in range(1, 11))
    assert official_runs.answers[0].tolist() == ORDER
    assert (official_runs.answers.sort(1).values == torch.arange(20)).all()
    assert float(small.training.mean()) == pytest.approx(
        float(official_runs.training.mean()), rel=0.05
    )


def test_answers_follow_the_lines_and_training_images_their_names(archive):
    runs = load_lake_runs(archive)
    assert runs.answers[0].tolist() == ORDER
    assert runs.answers[1].tolist() == [(known + 1) % 20 for known in ORDER]
    assert lake_error(runs, nearest_pixels) == 0.0
    assert lake_error(runs, modified_hausdorff) < 95.0


def test_runs_nested_in_a_folder(archive, tmp_path):
    nested = tmp_path / "nested.zip"
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(nested, "w") as target:
        for name in source.namelist():
            target.writestr(f"all_runs/{name}", source.read(name))
    assert torch.equal(load_lake_runs(nested).test, load_lake_runs(archive).test)


def test_images_look_as_those_that_omniglot_gives(archive, tmp_path):
    write_minimal(tmp_path)
    runs = load_lake_runs(archive)
    pool = Omniglot("minimal-1", 2, 1, 1, data_dir=tmp_path).pool.images.float() / 255
    # The drawn archives share a drawing: seed 41 is the first of all and class06 of run01.
    assert torch.equal(runs.training[0, 5], pool[0])
    inverted = load_lake_runs(archive, invert=False).training
    torch.testing.assert_close(inverted, 1 - runs.training)


def test_runs_are_tasks(archive):
    batch = load_lake_runs(archive).tasks()
    assert batch.num_tasks == 2
    assert batch.support.targets.tolist() == [[*range(20)]] * 2
    images = batch.support.inputs[torch.arange(2)[:, None], batch.query.targets]
    assert torch.equal(images, batch.query.inputs)


def test_error_counts_wrong_trials(archive):
    runs = load_lake_runs(archive)
    wrong = runs.answers.clone()
    wrong[1, :3] = (wrong[1, :3] + 1) % 20
    assert lake_error(runs, lambda training, test: wrong) == pytest.approx(100 * 3 / 40)


@pytest.mark.parametrize("result", [torch.zeros(2, 20), torch.zeros(2, 20, 5), torch.zeros(40)])
def test_a_classifier_of_another_shape(archive, result):
    with pytest.raises(ShapeError, match="Expected integer indices"):
        lake_error(load_lake_runs(archive), lambda training, test: result)


def test_contaminated_weights_are_refused():
    with pytest.raises(ContaminationError, match=r"Lake's runs: Ge_ez, Tibetan\. Train on"):
        check_uncontaminated(["Greek", "Tibetan", "Ge_ez"])
    assert len(EVALUATION_ALPHABETS) == 10


def test_minimal_backgrounds_are_uncontaminated(tmp_path):
    write_minimal(tmp_path)
    tasks = Omniglot("minimal-1", 2, 1, 1, data_dir=tmp_path)
    check_uncontaminated([*tasks.alphabets, *tasks.split("test").alphabets])


def test_bad_archives(tmp_path, archive):
    with pytest.raises(DataError, match=r"gone\.zip is missing"):
        load_lake_runs(tmp_path / "gone.zip")
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(other, "w") as target:
        target.writestr("readme", "")
    with pytest.raises(DataError, match="expected the official archive all_runs"):
        load_lake_runs(other)
    with zipfile.ZipFile(other, "w") as target:
        target.writestr("run01/class_labels.txt", "one two\n")
    with pytest.raises(DataError, match="Expected 20 lines"):
        load_lake_runs(other)
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(other, "w") as target:
        for name in source.namelist():
            if name != "run02/test/item05.png":
                target.writestr(name, source.read(name))
    with pytest.raises(DataError, match=r"lacks run02/test/item05\.png"):
        load_lake_runs(other)
    other.write_bytes(archive.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"other\.zip is corrupt"):
        load_lake_runs(other)
