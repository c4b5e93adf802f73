"""Error rate of a classifier of images on Lake's one-shot runs."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from metarl.errors import ShapeError
from metarl.evaluation.lake import TRIALS, LakeRuns

Classify = Callable[[Tensor, Tensor], Tensor]
"""Maps training images [R, 20, 1, H, W] and test images of the same shape to the index of the
training image of the same character as each test image, int64 [R, 20], or to distances
[R, 20 test, 20 training], of which the smallest counts. Runs are separate tasks."""


def lake_mistakes(runs: LakeRuns, classify: Classify) -> Tensor:
    """Returns which trials are classified wrongly, shape [R, 20], bool.

    Raises:
        ShapeError: If `classify` returns neither indices [R, 20] nor distances [R, 20, 20].
    """
    result = classify(runs.training, runs.test)
    if result.shape == (*runs.answers.shape, TRIALS):
        result = result.argmin(-1)
    if result.shape != runs.answers.shape or result.is_floating_point():
        shape = tuple(runs.answers.shape)
        raise ShapeError(
            f"Expected integer indices {shape} or distances {(*shape, TRIALS)} of the classifier, "
            f"got {result.dtype} {tuple(result.shape)}."
        )
    return result != runs.answers


def lake_error(runs: LakeRuns, classify: Classify) -> float:
    """Returns the percentage of wrong trials; see `lake_mistakes`."""
    return 100.0 * lake_mistakes(runs, classify).double().mean().item()
