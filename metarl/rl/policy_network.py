"""The network of a policy: convolutions for images, and layers with optional normalisation."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence

import torch
from gymnasium import spaces
from torch import Tensor, nn

from metarl.adaptation.checks.network import check_model
from metarl.adaptation.network_call import NetworkCall
from metarl.errors import SettingsError, ShapeError
from metarl.models import from_module
from metarl.models.base import (
    Fitting,
    Model,
    Params,
    Statistics,
    task_params,
    task_shape,
    weights_of,
)
from metarl.models.described import described
from metarl.models.folding import fold_images, unfold_images
from metarl.models.functional import affine, conv2d
from metarl.models.mlp import ACTIVATIONS, MLP, Activation
from metarl.models.modules import ModuleModel
from metarl.ranges import check_widths
from metarl.registry import check_choice
from metarl.sim.spaces import (
    Leaf,
    channels_last,
    image_shape,
    is_image,
    observation_leaves,
    source_of,
)
from metarl.tasks.base import Examples
from metarl.tasks.losses import are_shares

CNN = (16, 32, 32)
"""Channels of the convolutions; each has filters of 3 x 3 and halves height and width."""
OUTPUT_SCALE = 0.01
"""Scale of the initial output weights. It is small, so that the actions of an untrained policy
hardly depend on the observations (Andrychowicz et al. 2021, section 3.2)."""
EPS = 1e-5


@described
class PolicyNetwork(Model):
    """A network on flat observations that may contain images.

    Each image passes through its own convolutions (3 x 3, stride 2, rectified). Their outputs and
    all other entries are concatenated and pass through fully connected layers.

    Args:
        space: The flat observation space, [O]; its source says which entries are images.
        outputs: Number of outputs.
        generator: Source of the initial weights.
        hidden: Widths of the fully connected hidden layers.
        activation: Activation function after each of these.
        layer_norm: Whether their inputs to the activation are normalised over the layer (Ba et al.
            2016, arXiv:1607.06450).
        cnn: Channels of the convolutions of each image.
        output_scale: Factor on the initial weights of the last layer.

    Raises:
        SettingsError: A width is not positive, or the activation is unknown.
    """

    normalises_batches = False

    def __init__(
        self,
        space: spaces.Box,
        outputs: int,
        generator: torch.Generator,
        hidden: Sequence[int] = (100, 100),
        activation: Activation = "relu",
        layer_norm: bool = False,
        cnn: Sequence[int] = CNN,
        output_scale: float = OUTPUT_SCALE,
    ) -> None:
        super().__init__()
        hidden, self.cnn = check_widths("hidden", hidden), check_widths("cnn", cnn)
        if not self.cnn:
            raise SettingsError("Expected the channels of at least one convolution as `cnn`.")
        check_choice("activation", activation, ACTIVATIONS)
        leaves = observation_leaves(space)
        self.images = [leaf for leaf in leaves if is_image(leaf.space)]
        self.vectors = [(leaf.start, leaf.stop) for leaf in leaves if not is_image(leaf.space)]
        self.input_size = math.prod(space.shape)
        self.activation = activation
        self.layer_norm = layer_norm
        self.output_scale = output_scale
        features = sum(stop - start for start, stop in self.vectors)
        features += sum(_features(leaf, self.cnn) for leaf in self.images)
        self.sizes = (features, *hidden, outputs)
        initial = self.initial(generator)
        self.convolutions = nn.ModuleList(
            nn.ModuleList(
                weights_of(initial, f"convolutions.{i}.{j}") for j in range(len(self.cnn))
            )
            for i in range(len(self.images))
        )
        self.layers = nn.ModuleList(
            weights_of(initial, f"layers.{i}") for i in range(len(self.sizes) - 1)
        )
        self.norms = nn.ModuleList(
            weights_of(initial, f"norms.{i}") for i in range(len(hidden) if layer_norm else 0)
        )

    def forward(
        self, params: Params, inputs: Tensor, statistics: Statistics | None = None
    ) -> Tensor:
        """Maps inputs [T, N, O] to outputs [T, N, outputs].

        Raises:
            ShapeError: The inputs do not match the observation space or the parameters.
        """
        if inputs.dim() != 3 or inputs.shape[-1] != self.input_size:
            raise ShapeError(
                f"Expected inputs [T, N, {self.input_size}], flat observations of the space, got "
                f"{tuple(inputs.shape)}."
            )
        with Fitting(params, inputs):
            return self._run(params, inputs)

    def _run(self, params: Params, inputs: Tensor) -> Tensor:
        parts = [inputs[..., start:stop] for start, stop in self.vectors]
        parts += [self._image_features(params, inputs, i) for i in range(len(self.images))]
        hidden = torch.cat(parts, -1) if len(parts) > 1 else parts[0]
        activate = ACTIVATIONS[self.activation]
        last = len(self.sizes) - 2
        for i in range(last + 1):
            hidden = affine(params[f"layers.{i}.weight"], params[f"layers.{i}.bias"])(hidden)
            if i < last and self.layer_norm:
                norm = (params[f"norms.{i}.{kind}"].unsqueeze(1) for kind in ("weight", "bias"))
                hidden = layer_norm(hidden, *norm)
            if i < last:
                hidden = activate(hidden)
        return hidden

    def initial(self, generator: torch.Generator, num_tasks: int | None = None) -> Params:
        params: Params = {}
        tasks = task_shape(num_tasks)

        def draw(name: str, shape: tuple[int, ...], gain: float) -> None:
            weight = torch.empty(*tasks, *shape, device=generator.device)
            # W ~ N(0, gain / fan_in)
            std = math.sqrt(gain / math.prod(shape[1:]))
            params[f"{name}.weight"] = nn.init.normal_(weight, std=std, generator=generator)
            params[f"{name}.bias"] = torch.zeros(*tasks, shape[0], device=generator.device)

        for i, leaf in enumerate(self.images):
            channels = (_image(leaf)[0], *self.cnn)
            for j, (m, n) in enumerate(itertools.pairwise(channels)):
                draw(f"convolutions.{i}.{j}", (n, m, 3, 3), 2.0)  # for rectifiers (He et al. 2015)
        for i, (m, n) in enumerate(itertools.pairwise(self.sizes)):
            draw(f"layers.{i}", (n, m), 1.0)
        params[f"layers.{len(self.sizes) - 2}.weight"] *= self.output_scale
        for i, width in enumerate(self.sizes[1:-1] if self.layer_norm else ()):
            params[f"norms.{i}.weight"] = torch.ones(*tasks, width, device=generator.device)
            params[f"norms.{i}.bias"] = torch.zeros(*tasks, width, device=generator.device)
        return params

    def _image_features(self, params: Params, inputs: Tensor, index: int) -> Tensor:
        """Returns the outputs of the convolutions of one image, [T, N, features]."""
        leaf = self.images[index]
        folded = fold_images(images_of(leaf, inputs[..., leaf.start : leaf.stop]))
        for j in range(len(self.cnn)):
            name = f"convolutions.{index}.{j}"
            folded = conv2d(folded, params[f"{name}.weight"], stride=2, padding=1)
            folded = torch.relu(folded + params[f"{name}.bias"].flatten()[:, None, None])
        return unfold_images(folded, inputs.shape[0]).flatten(2)


def network_for(
    space: spaces.Box,
    outputs: int,
    generator: torch.Generator,
    hidden: Sequence[int],
    activation: Activation,
    layer_norm: bool,
    cnn: Sequence[int],
) -> Model:
    """Builds the network of a policy: an `MLP` if there are neither images nor layer norm."""
    if layer_norm or any(is_image(leaf.space) for leaf in observation_leaves(space)):
        return PolicyNetwork(space, outputs, generator, hidden, activation, layer_norm, cnn)
    sizes = (math.prod(space.shape), *check_widths("hidden", hidden), outputs)
    return MLP(sizes, generator, activation, output_scale=OUTPUT_SCALE)


def layer_norm(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Normalises each row: (x - mean) / sqrt(variance + eps) * weight + bias.

    Args:
        hidden: Shape [T, N, width].
        weight: Shape [T, 1, width].
        bias: Shape [T, 1, width].
    """
    centred = hidden - hidden.mean(-1, keepdim=True)
    variance = centred.square().mean(-1, keepdim=True)
    return torch.addcmul(bias, centred * torch.rsqrt(variance + EPS), weight)


def images_of(leaf: Leaf, entries: Tensor) -> Tensor:
    """Returns flat images [*, D] as [*, C, H, W]; stacked frames become channels."""
    space = leaf.space
    assert isinstance(space, spaces.Box)
    images = entries.unflatten(-1, space.shape)
    if len(space.shape) > 2 and channels_last(space):
        images = images.movedim(-1, -3)
    batch = entries.shape[:-1]
    return images.reshape(*batch, *image_shape(space))


def _image(leaf: Leaf) -> tuple[int, int, int]:
    space = source_of(leaf.space)
    assert isinstance(space, spaces.Box)
    return image_shape(space)


def _features(leaf: Leaf, cnn: Sequence[int]) -> int:
    """Returns the number of outputs of the convolutions of an image."""
    _, height, width = _image(leaf)
    for _ in cnn:
        height, width = (height + 1) // 2, (width + 1) // 2
    return cnn[-1] * height * width


def own_network(network: nn.Module, inputs: int, outputs: int, logits: bool = False) -> Model:
    """Returns a network of the user's as the model of a policy, checked.

    Args:
        network: A `Model`, or an ordinary module of observations [N, O].
        inputs: Size of an observation, O.
        outputs: Number of outputs that the policy needs.
        logits: Whether these are logits: it warns if they are probabilities.

    Raises:
        SettingsError: It returns another number of outputs than the policy needs, or its outputs
            for an observation depend on the others of the batch.
    """
    model = network if isinstance(network, Model) else from_module(network)
    first = next(model.parameters(), torch.empty(0))
    draws = torch.rand(1, 3, inputs, generator=torch.Generator().manual_seed(0))
    observations = draws.to(first)
    with torch.no_grad():
        params = task_params(model, 1)
        found = model(params, observations)
    if not isinstance(found, Tensor) or found.shape != (1, 3, outputs):
        shape = tuple(found.shape[1:]) if isinstance(found, Tensor) else type(found).__name__
        raise SettingsError(
            f"Expected a network from observations [N, {inputs}] to [N, {outputs}], got {shape} "
            f"for N = 3; give its last layer {outputs} outputs."
        )
    if logits and are_shares(found):
        warnings.warn(
            "The policy takes the outputs of its network for logits, and they are shares that add "
            "up to 1: no choice could become certain. Leave out the softmax at its end.",
            RuntimeWarning,
            stacklevel=2,
        )
    with torch.no_grad():
        fewer = model(params, observations[:, 1:])
    if not torch.allclose(fewer, found[:, 1:], rtol=1e-3, atol=1e-5 * float(found.abs().max())):
        raise SettingsError(
            "Expected a network that maps each observation by itself; the outputs of this one "
            "depend on the other observations of a batch, which are other robots, or other steps. "
            "Batch normalisations do so in training mode: call `.eval()` on them, or take another "
            "normalisation, such as LayerNorm."
        )
    if not isinstance(model, ModuleModel):
        _check_follows(model, params, observations)
        examples = Examples(observations, observations)
        check_model(NetworkCall(model), examples, frozenset(params))
    return model


@torch.enable_grad()
def _check_follows(model: Model, params: Params, observations: Tensor) -> None:
    """Raises SettingsError if the outputs do not depend on the parameters of a task."""
    leaves = [p.detach().requires_grad_() for p in params.values()]
    found = model(dict(zip(params, leaves, strict=True)), observations).sum()
    grads = [None]
    if found.requires_grad:
        grads = torch.autograd.grad(found, leaves, allow_unused=True)
    if all(grad is None for grad in grads):
        raise SettingsError(
            f"The outputs of {type(model).__name__} do not depend on `params`, [T, *shape] per "
            "name, which adapt: it computes with its own parameters."
        )
