import pytest
import torch

from metarl.errors import TaskError
from tests.evaluation.hausdorff import modified_hausdorff


def by_definition(first, second):
    """The distance of two images [H, W] written out, with every pair of points."""
    points = []
    for image in (first, second):
        at = (image > 0.5).nonzero().double()
        points.append(at - at.mean(0))
    pairs = (points[0][:, None] - points[1][None]).square().sum(-1).sqrt()
    return max(pairs.amin(1).mean(), pairs.amin(0).mean())


@pytest.mark.parametrize("density", [0.002, 0.05, 0.5])
def test_equals_the_definition(generator, density):
    training, test = (
        (torch.rand(2, n, 1, 23, 31, generator=generator) < density).float() for n in (4, 3)
    )
    training[..., 0, 0] = test[..., 5, 5] = 1.0
    distances = modified_hausdorff(training, test)
    assert distances.shape == (2, 3, 4)
    for run in range(2):
        for i in range(3):
            for k in range(4):
                expected = by_definition(test[run, i, 0], training[run, k, 0])
                torch.testing.assert_close(distances[run, i, k], expected)


def test_hand_computed():
    two = torch.zeros(1, 1, 1, 9, 9)
    two[..., 4, [2, 6]] = 1.0  # -2 and 2 about the mean
    three = torch.zeros(1, 1, 1, 9, 9)
    three[..., 0, [0, 4, 8]] = 1.0  # -4, 0 and 4
    assert modified_hausdorff(two, three).item() == pytest.approx(2.0)


def test_moving_a_drawing_does_not_matter():
    image = torch.zeros(1, 1, 1, 20, 20)
    image[..., 3:6, 2:9] = 1.0
    assert modified_hausdorff(image, image.roll((7, 5), (-2, -1))).item() == 0.0


def test_a_drawing_without_ink():
    with pytest.raises(TaskError, match="no ink"):
        modified_hausdorff(torch.ones(1, 2, 1, 5, 5), torch.zeros(1, 2, 1, 5, 5))
