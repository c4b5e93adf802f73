"""Modules that users bring: the contract of `from_module` holds for each of them."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn


class Residual(nn.Module):
    """A block with a shortcut, as in ResNet-12."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.short = nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs))
        self.relu = nn.LeakyReLU(0.1, inplace=True)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x):
        """Adds the shortcut in place, as torchvision does."""
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        out += self.short(x)
        return self.pool(self.relu(out))


class ResNet(nn.Module):
    """Two blocks and a head on the mean over positions."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(Residual(2, 3), Residual(3, 4))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = F.adaptive_avg_pool2d(self.blocks(x), 1)
        return self.head(torch.flatten(x, 1))


class PatchTransformer(nn.Module):
    """A small ViT with attention written out, and a class token."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(1, 8, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 8) * 0.1)
        self.position = nn.Parameter(torch.randn(1, 5, 8) * 0.1)
        self.norm = nn.LayerNorm(8)
        self.qkv = nn.Linear(8, 24)
        self.mix = nn.Linear(8, 8)
        self.mlp = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        n = x.shape[0]
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(n, -1, -1), x), dim=1) + self.position
        q, k, v = self.qkv(self.norm(x)).reshape(n, 5, 3, 2, 4).permute(2, 0, 3, 1, 4)
        x = x + self.mix(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, 5, 8))
        return self.head((x + self.mlp(x))[:, 0])


class Recurrent(nn.Module):
    """A 1-D convolution over time, and a recurrent layer."""

    def __init__(self, kind, **options):
        super().__init__()
        self.conv = nn.Conv1d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm1d(4)
        self.layer = kind(4, 3, batch_first=True, **options)
        self.head = nn.Linear(6 if options.get("bidirectional") else 3, 3)

    def forward(self, x):
        hidden = F.elu(self.norm(self.conv(x))).transpose(1, 2)
        return self.head(self.layer(hidden)[0][:, -1])


class SetTransformer(nn.Module):
    """A transformer over the sequence of a task's points: a prediction depends on all of them."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(3, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.layer(self.embed(x).unsqueeze(0)).squeeze(0))


class Tied(nn.Module):
    """Two layers that share a weight, and a parameter that is not used."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


class Branches(nn.Module):
    """Python control flow that depends on values: no graph, and no rule for `vmap`."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        hidden = self.linear(x)
        return hidden.sin() if self.linear.weight.sum() > 0 else hidden.cos()


class Loops(nn.Module):
    """Control flow that depends on shapes: fx cannot trace it, `vmap` runs it."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.norm = nn.LayerNorm(3)

    def forward(self, x):
        for _ in range(len(x) // len(x) + 1):
            x = self.norm(torch.tanh(self.linear(x)))
        return x


class FunctionalNorms(nn.Module):
    """Norms and weights as functions, and a buffer."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3))
        self.scale = nn.Parameter(torch.ones(4))
        self.shift = nn.Parameter(torch.zeros(4))
        self.head = nn.Linear(4, 3)
        self.register_buffer("offset", torch.tensor([0.1, 0.2, 0.3]))

    def forward(self, x):
        hidden = F.linear(x + self.offset, self.weight)
        hidden = F.batch_norm(hidden, None, None, self.scale, self.shift, training=True)
        return self.head(F.gelu(F.layer_norm(hidden, (4,), self.scale, self.shift)))


class Tokens(nn.Module):
    """A class of a text by its characters."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 4, padding_idx=0)
        self.convolution = nn.Conv1d(4, 5, 3)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        hidden = self.convolution(self.embedding(x).transpose(1, 2)).relu()
        return self.head(hidden.amax(dim=2))


class ReadTokens(nn.Module):
    """A class of a text by a recurrent network, which reads the padding too."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 4, padding_idx=0)
        self.reader = nn.GRU(4, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.reader(self.embedding(x))[0][:, -1])


class Parametrised(nn.Module):
    """Weight normalisation, and spectral normalisation with fixed singular vectors."""

    def __init__(self):
        super().__init__()
        parametrizations = nn.utils.parametrizations
        self.first = parametrizations.weight_norm(nn.Linear(3, 4))
        self.second = parametrizations.spectral_norm(nn.Linear(4, 3)).eval()

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


class Outputs(nn.Module):
    """Returns a dict with a tuple in it."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        hidden = torch.sigmoid(self.linear(x))
        return {"logits": self.head(hidden), "hidden": (hidden, hidden.mean(1))}


class Case(NamedTuple):
    """A module, the shape of an input, and how it shall run."""

    net: nn.Module
    shape: tuple[int, ...]
    kind: str


def conv1d():
    return nn.Sequential(
        nn.Conv1d(2, 4, 3, stride=2, padding=1, dilation=2), nn.InstanceNorm1d(4, affine=True),
        nn.SiLU(), nn.AvgPool1d(2), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


def conv3d():
    return nn.Sequential(
        nn.Conv3d(1, 2, 2), nn.BatchNorm3d(2), nn.ReLU(inplace=True), nn.MaxPool3d(2),
        nn.Flatten(), nn.Linear(2, 3),
    )  # fmt: skip


def conv2d(**options):
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding="same", **options), nn.BatchNorm2d(4), nn.ReLU(),
        nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, groups=4), nn.GroupNorm(2, 4), nn.Softplus(),
        nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip


def batch_norm_of_vectors():
    return nn.Sequential(
        nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.BatchNorm1d(4, affine=False),
        nn.Linear(4, 3),
    )  # fmt: skip


def in_eval_mode():
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2))
    net.append(nn.Flatten()).append(nn.Linear(12, 3))
    buffers = dict(net.named_buffers())
    buffers["1.running_mean"].fill_(0.2)
    buffers["1.running_var"].fill_(1.7)
    return net.eval()


def frozen_body():
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
    net[0].requires_grad_(False)
    return net


def encoder(**options):
    layer = nn.TransformerEncoderLayer(
        8, 2, 16, dropout=0.0, batch_first=True, activation="gelu", **options
    )
    return nn.Sequential(nn.Linear(3, 8), layer, nn.Flatten(), nn.Linear(32, 3))


CASES = {
    "mlp": lambda: Case(nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)), (3,), "graph"),
    "one layer": lambda: Case(nn.Linear(3, 3), (3,), "graph"),
    "layer norm": lambda: Case(
        nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 3)), (3,), "graph"
    ),
    "batch norm of vectors": lambda: Case(batch_norm_of_vectors(), (3,), "graph"),
    "conv1d": lambda: Case(conv1d(), (2, 10), "graph"),
    "conv2d": lambda: Case(conv2d(), (2, 8, 8), "graph"),
    "circular padding": lambda: Case(conv2d(padding_mode="circular"), (2, 8, 8), "mixed"),
    "conv3d": lambda: Case(conv3d(), (1, 4, 4, 4), "graph"),
    "eval mode": lambda: Case(in_eval_mode(), (2, 6, 6), "graph"),
    "resnet": lambda: Case(ResNet(), (2, 8, 8), "graph"),
    "vit": lambda: Case(PatchTransformer(), (1, 8, 8), "mixed"),
    "transformer encoder": lambda: Case(encoder(), (4, 3), "mixed"),
    "norm first": lambda: Case(encoder(norm_first=True), (4, 3), "mixed"),
    "set transformer": lambda: Case(SetTransformer(), (3,), "mixed"),
    "convolution and gru": lambda: Case(Recurrent(nn.GRU), (2, 5), "mixed"),
    "lstm": lambda: Case(Recurrent(nn.LSTM, bidirectional=True), (2, 4), "mixed"),
    "two layers of rnn": lambda: Case(Recurrent(nn.RNN, num_layers=2), (2, 4), "mixed"),
    "tied": lambda: Case(Tied(), (3,), "graph"),
    "branches": lambda: Case(Branches(), (3,), "loop"),
    "loops": lambda: Case(Loops(), (3,), "vmap"),
    "functional norms": lambda: Case(FunctionalNorms(), (3,), "mixed"),
    "parametrised": lambda: Case(Parametrised(), (3,), "mixed"),
    "frozen body": lambda: Case(frozen_body(), (3,), "graph"),
}
"""Name -> a new case."""


def draw(case, tasks, count, generator):
    """Draws inputs [T, N, *shape] for a case."""
    return torch.randn(tasks, count, *case.shape, generator=generator, dtype=torch.double)


def initialised(net, generator):
    """Draws all weights from a generator, none of them special."""
    for p in filter(torch.is_floating_point, net.parameters()):
        bound = 1 / math.sqrt(max(1, p.shape[-1] if p.dim() else 1))
        with torch.no_grad():
            p.copy_(p.sign() * 0.1 + torch.randn(p.shape, generator=generator) * bound)
    return net
