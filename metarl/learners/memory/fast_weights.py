"""Networks whose last three layers fast weights augment, and what makes these from gradients.

Munkhdalai & Yu 2017 (Meta Networks), sections 2 to 4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarl.adaptation.coordinates import LSTMCell, check_units, log_sign, pack, uniform
from metarl.adaptation.inner_loop import task_gradients
from metarl.errors import SettingsError
from metarl.learners.images.embeddings import ImageShape, check_images, check_shape
from metarl.models.base import Params, Weights, task_params
from metarl.models.functional import linear

P = 7.0  # of the gradients' preprocessing: magnitudes below e^-7 count as small


class AugmentedNetwork(nn.Module):
    """Five 3x3 convolutions with ReLU and 2x2 max-pooling, a layer of ReLUs and an affine one.

    Layer augmentation (section 3): fast weights W* of the last three layers stand beside the slow
    ones, relu(W x) + relu(W* x), and W x + W* x in the last layer. The fifth convolution is
    computed as an affine map of patches, so that each example can have weights of its own.

    Args:
        images: What it takes.
        outputs: Numbers that come out.
        generator: Source of the initial weights, uniform as He et al. 2015 have it: for 64 filters
            the paper's U[-0.1, 0.1).
        filters: Filters of each convolution, and width of the hidden layer.

    Raises:
        SettingsError: A number is not positive.
    """

    CONVOLUTIONS = 4

    def __init__(
        self, images: ImageShape, outputs: int, generator: torch.Generator, filters: int = 64
    ) -> None:
        super().__init__()
        check_images(images, filters, 1)
        if outputs < 1:
            raise SettingsError(f"Expected at least 1 output, got {outputs}.")
        self.images = images
        channels = [images.channels] + [filters] * self.CONVOLUTIONS
        self.convolutions = nn.ModuleList(
            _layer((after, before, 3, 3), generator) for before, after in pairwise(channels)
        )
        self.size = -(-images.size // 2**self.CONVOLUTIONS)  # halved, rounded up
        width = filters * (-(-self.size // 2)) ** 2
        self.augmented = nn.ModuleDict(
            {
                "convolution": _layer((filters, 9 * filters), generator),
                "hidden": _layer((filters, width), generator),
                "output": _layer((outputs, filters), generator),
            }
        )

    def patches(self, images: Tensor) -> Tensor:
        """Returns what the fifth convolution sees: [T, N, positions, 9 * filters].

        Args:
            images: Shape [T, N, C, H, W].

        Raises:
            ShapeError: The images have another shape than the network takes.
        """
        check_shape(images, self.images)
        hidden = images.flatten(0, 1)
        for layer in self.convolutions:
            assert isinstance(layer, Weights)
            hidden = F.conv2d(hidden, layer.weight, layer.bias, padding=1)
            hidden = F.max_pool2d(torch.relu(hidden), 2, ceil_mode=True)
        return F.unfold(hidden, 3, padding=1).mT.unflatten(0, images.shape[:2])

    def slow(self) -> Params:
        """Returns the slow weights of the last three layers, without a leading dimension."""
        return dict(self.augmented.named_parameters())

    def forward(self, patches: Tensor, fast: Params | None = None) -> Tensor:
        """Runs the last three layers with their slow weights, and fast ones beside them.

        Args:
            patches: Shape [B, N, positions, 9 * filters].
            fast: Weights [B, *shape] per name of `slow`, one set for N examples each; None: none.

        Returns:
            Shape [B, N, outputs].
        """
        return self.run(patches, [self.slow()] if fast is None else [self.slow(), fast])

    def run(self, patches: Tensor, weights: Sequence[Params]) -> Tensor:
        """Runs the last three layers, each the sum of what it gives with every set of weights."""
        examples = patches.shape[:2]
        hidden = sum(torch.relu(_affine(patches.flatten(1, 2), w, "convolution")) for w in weights)
        assert isinstance(hidden, Tensor)
        maps = hidden.mT.unflatten(2, (examples[1], self.size, self.size)).transpose(1, 2)
        pooled = F.max_pool2d(maps.flatten(0, 1), 2, ceil_mode=True)
        inputs = pooled.flatten(1).unflatten(0, examples)
        hidden = sum(torch.relu(_affine(inputs, w, "hidden")) for w in weights)
        assert isinstance(hidden, Tensor)
        outputs = sum(_affine(hidden, w, "output") for w in weights)
        assert isinstance(outputs, Tensor)
        return outputs

    def gradients(self, patches: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """Computes the gradient of each of B losses by the slow weights of the last three layers.

        Args:
            patches: Shape [B, N, positions, 9 * filters].
            loss: Maps outputs [B, N, outputs] to losses [B].

        Returns:
            A row of all of these weights per loss, [B, P], without a graph.
        """
        patches = patches.detach()
        slow = task_params(self.augmented, len(patches))
        grads, _ = task_gradients(lambda p: loss(self.run(patches, [p])), slow, False)
        return pack(grads)


class GradientMap(nn.Module):
    """m(Z, .): a network of three layers, the same for all coordinates (section 2.2).

    From the paper's initial U[-0.1, 0.1) fast weights would come out almost alike, and below 0 all
    of their ReLUs would be silent; so biases start at 0 and weights within 1 / sqrt(inputs).

    Args:
        generator: Source of the initial weights.
        units: Width of its hidden layers.
    """

    def __init__(self, generator: torch.Generator, units: int = 20) -> None:
        super().__init__()
        sizes = (2, check_units(units), units, 1)
        self.layers = nn.ModuleList(
            _draw(before, after, generator) for before, after in pairwise(sizes)
        )

    def forward(self, gradients: Tensor) -> Tensor:
        """Maps gradients of any shape, constants, to fast weights of that shape."""
        hidden = log_sign(gradients, P)
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, Weights)
            hidden = F.linear(hidden if i == 0 else torch.relu(hidden), layer.weight, layer.bias)
        return hidden.squeeze(-1)


class GradientReader(nn.Module):
    """d(G, .): an LSTM that reads gradients one after the other (section 2.1, equation 2).

    All coordinates share the weights; each has a state of its own.

    Args:
        generator: Source of the initial weights.
        units: Width of the LSTM.
    """

    def __init__(self, generator: torch.Generator, units: int = 20) -> None:
        super().__init__()
        bound = check_units(units) ** -0.5
        self.cell = LSTMCell(2, units, uniform(generator, -bound, bound))
        self.output = _draw(units, 1, generator)

    def forward(self, gradients: Tensor) -> Tensor:
        """Maps sequences of gradients [T, E, P], constants, to fast weights [T, P]."""
        shape = gradients[:, 0].shape
        hidden = cell = gradients.new_zeros(shape.numel(), self.cell.units)
        for gradient in gradients.unbind(1):
            hidden, cell = self.cell(log_sign(gradient, P).flatten(0, 1), hidden, cell)
        return F.linear(hidden, self.output.weight, self.output.bias).view(shape)


def _draw(inputs: int, outputs: int, generator: torch.Generator) -> Weights:
    """Returns an affine layer with weights from U(-1 / sqrt(inputs), ..) and a bias of 0."""
    bound = inputs**-0.5
    weight = uniform(generator, -bound, bound)((outputs, inputs))
    return Weights(weight, torch.zeros(outputs, device=generator.device))


def _layer(shape: tuple[int, ...], generator: torch.Generator) -> Weights:
    weight = torch.empty(shape, device=generator.device)
    nn.init.kaiming_uniform_(weight, nonlinearity="relu", generator=generator)
    return Weights(weight, torch.zeros(shape[0], device=generator.device))


def _affine(inputs: Tensor, weights: Params, layer: str) -> Tensor:
    """Maps inputs [B, M, in] by weights [out, in] or, of each of B, [B, out, in]."""
    weight, bias = weights[f"{layer}.weight"], weights[f"{layer}.bias"]
    if weight.dim() == 2:
        return F.linear(inputs, weight, bias)
    return linear(inputs, weight, bias)
