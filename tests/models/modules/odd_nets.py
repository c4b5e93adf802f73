"""Less usual modules that users bring: shared layers, stopped gradients, derived classes, hooks."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from tests.models.modules.nets import Case


class UNet(nn.Module):
    """Two resolutions with a skip connection."""

    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.PReLU(3))
        self.deep = nn.Conv2d(3, 4, 3, padding=1)
        self.up = nn.ConvTranspose2d(4, 4, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.out = nn.Conv2d(7, 3, 1)

    def forward(self, x):
        shallow = self.down(x)
        deep = F.relu(self.deep(F.max_pool2d(shallow, 2)), inplace=True)
        return self.out(torch.cat((shallow, self.up(deep)), 1)).mean((2, 3))


class SqueezeExcite(nn.Module):
    """Channels scaled by a small network, with views, upsampling and padding."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.gate = nn.Sequential(nn.Linear(4, 4), nn.GLU(), nn.Linear(2, 4), nn.Softmin(dim=1))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = F.pad(self.conv(x).contiguous(memory_format=torch.channels_last), (1, 0, 0, 2))
        x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        gate = self.gate(F.adaptive_avg_pool2d(x, 1).view(x.size(0), 4)).to(x.dtype)
        return self.head((x * gate.view(-1, 4, 1, 1).expand_as(x)).std(dim=(2, 3)))


class WeightsAsFunctions(nn.Module):
    """Standardised filters, a cosine head, and slices of a parameter."""

    def __init__(self):
        super().__init__()
        self.filters = nn.Parameter(torch.randn(4, 2, 3, 3))
        self.classes = nn.Parameter(torch.randn(3, 4))
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x):
        filters = self.filters - self.filters.mean((1, 2, 3), keepdim=True)
        filters = filters / (filters.std(dim=(1, 2, 3), keepdim=True) + 1e-5)
        hidden = F.conv2d(x, filters, self.scale, stride=2).flatten(2).max(dim=2).values
        first, second = F.rms_norm(hidden, (4,), self.scale).chunk(2, dim=-1)
        hidden = torch.cat((torch.lerp(first, second, 0.3), second.clamp(min=0)), -1)
        hidden = hidden.masked_fill(hidden < -1, -1.0).repeat(1, 1)
        return F.linear(F.normalize(hidden, dim=-1), F.normalize(self.classes))


class ScaledNorm(nn.BatchNorm1d):
    """A batch normalisation with another forward."""

    def forward(self, input):
        return super().forward(input) * 2


class OwnNorm(nn.BatchNorm1d):
    """A batch normalisation under another name."""


class OwnLSTM(nn.LSTM):
    """A recurrent layer under another name."""


class LastState(nn.Module):
    """Reads the last state of a recurrent layer."""

    def __init__(self):
        super().__init__()
        self.layer = OwnLSTM(2, 3, batch_first=True)

    def forward(self, x):
        return self.layer(x)[1][0][-1]


class StraightThrough(nn.Module):
    """Rounds with the gradient of the identity, and a body without gradients."""

    def __init__(self):
        super().__init__()
        self.body, self.hidden, self.head = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        with torch.no_grad():
            x = self.body(x)
        hidden = torch.tanh(self.hidden(x)).flip(1)  # no form: the derivatives are checked
        return self.head(hidden + (hidden.round() - hidden).detach())


class Float32Softmax(nn.Module):
    """Computes a part in float32, for inputs of any type."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x):
        hidden = F.softmax(self.first(x), dim=-1, dtype=torch.float32).flip(1)
        return self.second(hidden.to(x.dtype))


class KeepsFeatures(nn.Module):
    """Reads a hidden layer by a hook."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(3, 4), nn.Linear(4, 3)
        self.kept = {}
        self.body.register_forward_hook(self.keep)

    def keep(self, module, inputs, output):
        self.kept["features"] = output

    def forward(self, x):
        self.body(x)
        return self.head(torch.tanh(self.kept["features"]))


class Attention(nn.Module):
    """Attention with learned and zero elements, and a causal mask."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(3, 4)
        self.layer = nn.MultiheadAttention(
            4, 2, batch_first=True, add_bias_kv=True, add_zero_attn=True
        )
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.embed(x)
        hidden = torch.ones(4, 4, dtype=torch.bool).triu(1)
        return self.head(self.layer(x, x, x, attn_mask=hidden)[0].mean(1))


class Buffers(nn.Module):
    """Computes with buffers while it is traced, and holds an integer parameter."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.order = nn.Parameter(torch.tensor([1, 0, 2]), requires_grad=False)
        self.register_buffer("mixing", torch.tensor([[1.0, 0.5, 0.0]] * 3))

    def forward(self, x):
        return torch.tanh(x @ self.get_buffer("mixing").detach() + self.linear(x))[:, self.order]


class LowRankUpdate(nn.Module):
    """A parametrisation: a frozen weight and a small update."""

    def __init__(self):
        super().__init__()
        self.down, self.up = (nn.Parameter(torch.randn(3, 3)) for _ in range(2))

    def forward(self, weight):
        return weight + self.up @ self.down


def used_twice():
    layer = nn.Linear(3, 3)
    return nn.Sequential(layer, nn.Tanh(), layer, OwnNorm(3), nn.Linear(3, 3))


def low_rank():
    layer = nn.Linear(3, 3)
    parametrize.register_parametrization(layer, "weight", LowRankUpdate())
    layer.parametrizations.weight.original.requires_grad_(False)
    return nn.Sequential(layer, nn.Tanh(), nn.Linear(3, 3))


def pixels():
    return nn.Sequential(
        nn.ReflectionPad2d(1), nn.Conv2d(2, 4, 3), nn.SyncBatchNorm(4), nn.PixelShuffle(2),
        nn.Upsample(size=(6, 6)), nn.LPPool2d(2, 2), nn.CircularPad2d(1), nn.Flatten(),
        nn.Linear(25, 6), nn.RMSNorm(6), nn.Unflatten(1, (2, 3)), nn.PReLU(2),
        nn.ConvTranspose1d(2, 1, 1), nn.Flatten(),
    )  # fmt: skip


ODD = {
    "unet": lambda: Case(UNet(), (2, 8, 8), "graph"),
    "squeeze and excitation": lambda: Case(SqueezeExcite(), (2, 6, 6), "graph"),
    "weights as functions": lambda: Case(WeightsAsFunctions(), (2, 6, 6), "graph"),
    "pixels": lambda: Case(pixels(), (2, 6, 6), "graph"),
    "used twice": lambda: Case(used_twice(), (3,), "graph"),
    "derived norm": lambda: Case(
        nn.Sequential(nn.Linear(3, 4), ScaledNorm(4), nn.Tanh(), nn.Linear(4, 3)), (3,), "mixed"
    ),
    "derived lstm": lambda: Case(LastState(), (4, 2), "mixed"),
    "stopped gradients": lambda: Case(StraightThrough(), (3,), "vmap"),
    "float32 inside": lambda: Case(Float32Softmax(), (3,), "mixed"),
    "kept by a hook": lambda: Case(KeepsFeatures(), (3,), "vmap"),
    "attention with more keys": lambda: Case(Attention(), (4, 3), "mixed"),
    "buffers": lambda: Case(Buffers(), (3,), "mixed"),
    "low rank": lambda: Case(low_rank(), (3,), "mixed"),
}
"""Name -> a new case."""
