"""Networks with fast weights, and the networks that compute fast weights from gradients.

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

P = 7.0  # p of `log_sign`: gradients of magnitudes below e^-7 count as small


class AugmentedNetwork(nn.Module):
    """Five 3x3 convolutions with ReLU and 2x2 max-pooling, a hidden ReLU layer and an output layer.

    Layer augmentation (section 3): the last three layers have fast weights W* in addition to the
    slow weights W. A hidden layer computes relu(W x) + relu(W* x), the output layer W x + W* x.
    The fifth convolution is computed as an affine map of image patches, so that each example can
    have its own weights.

    Args:
        images: Shape of the images.
        outputs: Number of outputs.
        generator: Source of the initial weights, He uniform (He et al. 2015). For 64 filters, this
            is close to the paper's U[-0.1, 0.1).
        filters: Number of filters of each convolution, and width of the hidden layer.

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
            _draw_he((after, before, 3, 3), generator) for before, after in pairwise(channels)
        )
        self.size = -(-images.size // 2**self.CONVOLUTIONS)  # max-pooling rounds sizes up
        width = filters * (-(-self.size // 2)) ** 2
        self.augmented = nn.ModuleDict(
            {
                "convolution": _draw_he((filters, 9 * filters), generator),
                "hidden": _draw_he((filters, width), generator),
                "output": _draw_he((outputs, filters), generator),
            }
        )

    def patches(self, images: Tensor) -> Tensor:
        """Computes the 3x3 patches that are the input of the fifth convolution.

        Args:
            images: Shape [T, N, C, H, W], float32.

        Returns:
            Shape [T, N, positions, 9 * filters].

        Raises:
            ShapeError: The images have a different shape than the network takes.
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
        """Runs the last three layers with their slow weights and optional fast weights.

        Args:
            patches: The result of `patches`, [B, N, positions, 9 * filters].
            fast: Fast weights [B, *shape] by the names of `slow`, each set for N examples; None:
                slow weights only.

        Returns:
            Shape [B, N, outputs].
        """
        return self.run(patches, [self.slow()] if fast is None else [self.slow(), fast])

    def run(self, patches: Tensor, weights: Sequence[Params]) -> Tensor:
        """Runs the last three layers, each summed over several sets of weights.

        Args:
            patches: The result of `patches`, [B, N, positions, 9 * filters].
            weights: Sets of weights by the names of `slow`, [*shape] or [B, *shape] each.

        Returns:
            Shape [B, N, outputs].
        """
        examples = patches.shape[:2]
        # Layer augmentation: relu(W x) + relu(W* x)  (section 3)
        hidden = sum(torch.relu(_affine(patches.flatten(1, 2), w, "convolution")) for w in weights)
        assert isinstance(hidden, Tensor)
        maps = hidden.mT.unflatten(2, (examples[1], self.size, self.size)).transpose(1, 2)
        pooled = F.max_pool2d(maps.flatten(0, 1), 2, ceil_mode=True)
        inputs = pooled.flatten(1).unflatten(0, examples)
        hidden = sum(torch.relu(_affine(inputs, w, "hidden")) for w in weights)
        assert isinstance(hidden, Tensor)
        # W x + W* x
        outputs = sum(_affine(hidden, w, "output") for w in weights)
        assert isinstance(outputs, Tensor)
        return outputs

    def gradients(self, patches: Tensor, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """Computes the gradients of B losses w.r.t. the slow weights of the last three layers.

        Args:
            patches: The result of `patches`, [B, N, positions, 9 * filters].
            loss: Maps outputs [B, N, outputs] to losses [B].

        Returns:
            The gradients of all P weights, one row per loss, [B, P], without a graph.
        """
        patches = patches.detach()
        slow = task_params(self.augmented, patches.shape[0])
        grads, _ = task_gradients(lambda p: loss(self.run(patches, [p])), slow, False)
        return pack(grads)


class GradientMap(nn.Module):
    """m(Z, .): a network of three layers that maps each coordinate of a gradient (section 2.2).

    All coordinates share the weights Z. Biases start at 0 and weights within 1 / sqrt(inputs): with
    the paper's U[-0.1, 0.1), all fast weights would start almost equal, and if they were below 0,
    all of their ReLUs would output 0.

    Args:
        generator: Source of the initial weights.
        units: Width of the hidden layers.
    """

    def __init__(self, generator: torch.Generator, units: int = 20) -> None:
        super().__init__()
        sizes = (2, check_units(units), units, 1)
        self.layers = nn.ModuleList(
            _draw_dense(before, after, generator) for before, after in pairwise(sizes)
        )

    def forward(self, gradients: Tensor) -> Tensor:
        """Maps gradients of any shape to fast weights of the same shape.

        Args:
            gradients: Constants, without a graph.
        """
        hidden = log_sign(gradients, P)
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, Weights)
            hidden = F.linear(hidden if i == 0 else torch.relu(hidden), layer.weight, layer.bias)
        return hidden.squeeze(-1)


class GradientReader(nn.Module):
    """d(G, .): an LSTM that reads a sequence of gradients (section 2.1, equation 2).

    All coordinates share the weights G; each has its own state.

    Args:
        generator: Source of the initial weights.
        units: Width of the LSTM.
    """

    def __init__(self, generator: torch.Generator, units: int = 20) -> None:
        super().__init__()
        bound = check_units(units) ** -0.5
        self.cell = LSTMCell(2, units, uniform(generator, -bound, bound))
        self.output = _draw_dense(units, 1, generator)

    def forward(self, gradients: Tensor) -> Tensor:
        """Maps sequences of gradients to fast weights: Q* = d(G, {grad_e}_e)  (equation 2).

        Args:
            gradients: Constants without a graph, [T, E, P]: E gradients of each task.

        Returns:
            Shape [T, P].
        """
        shape = gradients[:, 0].shape
        hidden = cell = gradients.new_zeros(shape.numel(), self.cell.units)
        for gradient in gradients.unbind(1):
            hidden, cell = self.cell(log_sign(gradient, P).flatten(0, 1), hidden, cell)
        return F.linear(hidden, self.output.weight, self.output.bias).view(shape)


def _draw_dense(inputs: int, outputs: int, generator: torch.Generator) -> Weights:
    """Returns an affine layer with weights from U[-b, b), b = 1 / sqrt(inputs), and biases of 0."""
    bound = inputs**-0.5
    weight = uniform(generator, -bound, bound)((outputs, inputs))
    return Weights(weight, torch.zeros(outputs, device=generator.device))


def _draw_he(shape: tuple[int, ...], generator: torch.Generator) -> Weights:
    """Returns a layer with He uniform weights of a shape (He et al. 2015) and biases of 0."""
    weight = torch.empty(shape, device=generator.device)
    nn.init.kaiming_uniform_(weight, nonlinearity="relu", generator=generator)
    return Weights(weight, torch.zeros(shape[0], device=generator.device))


def _affine(inputs: Tensor, weights: Params, layer: str) -> Tensor:
    """Computes W x + b of inputs [B, M, in] and weights [out, in] or [B, out, in]."""
    weight, bias = weights[f"{layer}.weight"], weights[f"{layer}.bias"]
    if weight.dim() == 2:
        return F.linear(inputs, weight, bias)
    return linear(inputs, weight, bias)
