"""Any `nn.Module` as the embedding of a metric learner."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from metarl.errors import SettingsError, ShapeError
from metarl.learners.images.embeddings import Embedding
from metarl.learners.images.layers import Moments
from metarl.models.base import Statistics, task_params
from metarl.models.described import described
from metarl.models.modules import ModuleModel, from_module
from metarl.models.modules.skeleton import is_batch_norm


@described
class ModuleEmbedding(Embedding):
    """Embeds the examples of each task by an ordinary module, with weights that all tasks share.

    In training, batch normalisations use the statistics of each task, and their running statistics
    follow these. In evaluation they use the running statistics, so that no prediction depends on
    another query. Dropout is active in training.

    Args:
        net: Maps a batch [N, *input] to features [N, D] or feature maps [N, D, H, W].

    Raises:
        SettingsError: See `from_module`.
    """

    model: ModuleModel

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        # Not a child: its parameters are those of `net`.
        object.__setattr__(self, "model", from_module(net))
        # Other layers do not mix examples: `_check_independence` refuses them.
        self.respects_weights = not any(is_batch_norm(layer) for layer in net.modules())
        self._independent: set[tuple[int, ...]] = set()

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        images: Tensor,
        moments: Moments | None,
        noise: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Embeds examples [T, N, *input]; see `Embedding.forward`.

        Args:
            images: The examples, of any shape that the module takes.
            moments: See `Embedding.forward`.
            noise: What dropout draws, from `draw_noise`; None: no dropout.
            mask: True for the real elements of padded sequences, [T, N, L] bool, for a module whose
                forward has a parameter `mask`; None: no padding.

        Raises:
            ShapeError: The module returns something else than one tensor of features.
        """
        self._check_independence(images, mask)
        model, num_tasks = self.model, images.shape[0]
        params = task_params(model, num_tasks)
        if moments is None:
            statistics = Statistics(recording=False, values=self._running(num_tasks))
            features = model(params, images, statistics, mask=mask)
        else:
            statistics = Statistics(momentum=1.0)
            features = model(params, images, statistics, mask=mask, noise=noise)
            layers = dict(self.net.named_modules())
            if not statistics.values.keys() <= layers.keys():
                raise SettingsError(
                    "Expected batch normalisations that are layers, and the module calls "
                    "`F.batch_norm` with the statistics of the batch: evaluation would depend on "
                    "the other queries. Use nn.BatchNorm1d, 2d or 3d."
                )
            moments.update(  # the keys of other embeddings are layers, too
                {layers[n]: m for n, m in statistics.values.items()}  # pyright: ignore[reportArgumentType, reportCallIssue]
            )
        if not isinstance(features, Tensor) or features.dim() not in (3, 5):
            is_tensor = isinstance(features, Tensor)
            found = tuple(features.shape[1:]) if is_tensor else type(features).__name__
            raise ShapeError(
                f"Expected features [N, D] or maps [N, D, H, W] of each example, got {found}; a "
                "metric learner takes a network that returns one tensor of features."
            )
        return features

    def prepare(self, inputs: Tensor, mask: Tensor | None = None) -> None:
        self.model.prepare(inputs, mask)

    def draw_noise(self, generator: torch.Generator, num_tasks: int) -> Tensor | None:
        """Draws the seeds of dropout, [T] int64; None without dropout."""
        return self.model.draw_noise(generator, num_tasks)

    def notes(self) -> list[str]:
        """Returns how the module runs for many tasks."""
        return [self.model.explain()]

    def _check_independence(self, inputs: Tensor, mask: Tensor | None) -> None:
        """Checks that examples meet in the statistics of batch normalisations only.

        Raises:
            SettingsError: The features of an example depend on other examples of the batch.
        """
        size = tuple(map(int, inputs.shape[2:]))  # whole numbers while it is captured as a graph
        if size in self._independent:
            return
        with torch.inference_mode(False):
            alone = from_module(copy.deepcopy(self.net).eval(), check_derivatives=False)
        alone.prepare(inputs, mask)
        if alone.normalises_batches:
            raise SettingsError(
                f"Expected features of each example by itself, and those of "
                f"{type(self.net).__name__} depend on the other examples of the batch in "
                "evaluation mode, too: predictions would depend on the other queries. Only batch "
                "normalisations with `track_running_stats=True` may use the batch (as layers, not "
                "as F.batch_norm); attention, means or norms over the examples may not."
            )
        self._independent.add(size)

    def _running(self, num_tasks: int) -> dict[str, tuple[Tensor, Tensor]]:
        """Returns the running statistics of every batch normalisation, for each task."""
        values = {}
        for name, layer in self.net.named_modules():
            if not is_batch_norm(layer):
                continue
            mean, variance = layer.running_mean, layer.running_var
            if not isinstance(mean, Tensor) or not isinstance(variance, Tensor):
                raise SettingsError(
                    f"Expected batch normalisations with running statistics, and {name} has "
                    "none: evaluation would depend on the other queries. Build it with "
                    "`track_running_stats=True`."
                )
            values[name] = tuple(x.expand(num_tasks, *x.shape) for x in (mean, variance))
        return values

    def __deepcopy__(self, memo: dict[int, object]) -> ModuleEmbedding:
        """Copies the module, and makes a model of the copy."""
        made = ModuleEmbedding(copy.deepcopy(self.net, memo))
        made.training = self.training  # alone: layers keep their modes
        return made

    def __reduce__(self) -> tuple[type[ModuleEmbedding], tuple[nn.Module]]:
        """Pickles the module alone."""
        return ModuleEmbedding, (self.net,)
