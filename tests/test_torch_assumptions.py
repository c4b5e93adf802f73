"""What MetaRL assumes about torch: where one fails after an upgrade, see the test's message.

Some are defects that the library works around; a failure "torch mended this" means that the
work-around named there may go.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.gradcheck import GradcheckError
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from metarl.models import functional
from metarl.models.modules.normalisation import weight_norm

TASKS, IMAGES, CHANNELS = 3, 5, 4
EPS = 1e-5
RAND = [0.49625658988952637, 0.7682217955589294, 0.08847743272781372]
RANDPERM = [0, 4, 5, 1, 2, 3]


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def draw(generator, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.double)


# Normalisation under vmap: a right loss, a wrong second-order meta-gradient.


class MetaProblem:
    """One inner step on a mixing of channels, a normalisation and its affine part; float64."""

    def __init__(self, norm, generator):
        self.norm = norm
        shape = (2, TASKS, IMAGES, CHANNELS, 3, 3)
        self.inputs, self.targets = draw(generator, *shape), draw(generator, *shape)
        self.theta = draw(generator, CHANNELS * (CHANNELS + 2))

    def loss(self, theta, inputs, targets):
        """The loss of one task on one of its sets."""
        mixing, weight, bias = theta.split([CHANNELS * CHANNELS, CHANNELS, CHANNELS])
        hidden = torch.einsum("nc...,cd->nd...", inputs, mixing.view(CHANNELS, CHANNELS))
        return (torch.tanh(self.norm(hidden, weight, bias)) - targets).square().mean()

    def meta_loss(self, theta, inputs, targets):
        """Of one task, [2, ...] for support and query."""
        adapted = theta - 0.5 * grad(self.loss)(theta, inputs[0], targets[0])
        return self.loss(adapted, inputs[1], targets[1])

    def batched(self, theta):
        """The meta-loss of all tasks at once."""
        return vmap(self.meta_loss, in_dims=(None, 1, 1))(theta, self.inputs, self.targets).sum()

    def looped(self, theta):
        """The meta-loss of one task after the other."""
        losses = [
            self.meta_loss(theta, self.inputs[:, t], self.targets[:, t]) for t in range(TASKS)
        ]
        return torch.stack(losses).sum()

    def finite_differences(self, epsilon=1e-6):
        """The meta-gradient by central differences of losses that no vmap computed."""
        steps = epsilon * torch.eye(len(self.theta), dtype=torch.double)
        differences = [self.looped(self.theta + s) - self.looped(self.theta - s) for s in steps]
        return torch.stack(differences) / (2 * epsilon)

    def relative_error(self):
        """How far the meta-gradient through vmap is from that by differences."""
        exact = self.finite_differences()
        return ((grad(self.batched)(self.theta) - exact).norm() / exact.norm()).item()


def torch_batch_norm(hidden, weight, bias):
    return F.batch_norm(hidden, None, None, weight, bias, training=True, eps=EPS)


def torch_instance_norm(hidden, weight, bias):
    return F.instance_norm(hidden, weight=weight, bias=bias, eps=EPS)


def torch_layer_norm(hidden, weight, bias):
    return F.layer_norm(hidden.movedim(1, -1), (CHANNELS,), weight, bias, EPS).movedim(-1, 1)


def own_batch_norm(hidden, weight, bias):
    variance, mean = torch.var_mean(hidden, (0, 2, 3), correction=0)
    return functional.batch_norm(hidden, mean, variance, weight, bias, EPS)


TORCH_NORMS = [torch_batch_norm, torch_instance_norm, torch_layer_norm]


@pytest.mark.parametrize("norm", TORCH_NORMS)
def test_torchs_normalisation_under_vmap_gives_a_wrong_meta_gradient(norm, generator):
    problem = MetaProblem(norm, generator)
    torch.testing.assert_close(problem.batched(problem.theta), problem.looped(problem.theta))
    assert problem.relative_error() > 1e-3, (
        "torch mended this: vmap(grad) through its normalisation with adapted weights is right; "
        "metarl.models.functional.batch_norm is no longer needed for that"
    )


@pytest.mark.parametrize("norm", TORCH_NORMS)
def test_torchs_normalisation_is_right_without_adapted_weights_or_vmap(norm, generator):
    without = MetaProblem(lambda hidden, weight, bias: norm(hidden, None, None), generator)
    assert without.relative_error() < 1e-7
    problem = MetaProblem(norm, generator)
    exact = problem.finite_differences()
    torch.testing.assert_close(grad(problem.looped)(problem.theta), exact, rtol=1e-6, atol=1e-7)


def test_our_batch_norm_is_right_under_vmap_too(generator):
    problem = MetaProblem(own_batch_norm, generator)
    assert problem.relative_error() < 1e-7
    expected = MetaProblem(torch_batch_norm, torch.Generator().manual_seed(0))
    torch.testing.assert_close(problem.batched(problem.theta), expected.looped(expected.theta))


def test_torchs_weight_norm_has_a_wrong_second_derivative_on_the_cpu(generator):
    v = draw(generator, 4, 3).requires_grad_()
    g = draw(generator, 4, 1).abs().requires_grad_()
    assert gradgradcheck(lambda v, g: weight_norm(v, g).sin(), (v, g))
    with pytest.raises(GradcheckError, match="Jacobian mismatch"):
        gradgradcheck(lambda v, g: torch._weight_norm(v, g, 0).sin(), (v, g))
        pytest.fail("torch mended this: metarl.models.modules.normalisation.weight_norm")


# Other things that torch.func cannot do.


@pytest.mark.parametrize("layer", [nn.LSTM, nn.LSTMCell])
def test_lstms_have_no_batching_rule(layer):
    net = layer(3, 4)
    with pytest.raises(RuntimeError, match="Batching rule not implemented"):
        vmap(lambda x: net(x)[0])(torch.zeros(2, 5, 3))
        pytest.fail("torch mended this: LSTMs run under vmap; metarl.adaptation.coordinates")


@pytest.mark.parametrize("order", ["checkpoint in grad", "grad in checkpoint"])
def test_checkpointing_and_functional_gradients_do_not_combine(order):
    x = torch.ones(3)
    with pytest.raises(RuntimeError, match="don't yet support saved tensor hooks"):
        if order == "checkpoint in grad":
            grad(lambda v: checkpoint(torch.sin, v, use_reentrant=False).sum())(x)  # pyright: ignore
        else:
            checkpoint(lambda v: vmap(grad(torch.sin))(v), x, use_reentrant=False)
        pytest.fail("torch mended this: checkpointing could bound memory as chunks of tasks do")


def attention(query):
    return F.scaled_dot_product_attention(query, query, query)


def test_attention_has_a_second_derivative_only_by_the_plain_formula(generator):
    query = draw(generator, 1, 2, 3, 4).requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        assert gradgradcheck(attention, query)
    with pytest.raises(RuntimeError, match="is not implemented"):
        gradgradcheck(attention, query)
        pytest.fail("torch mended this: attention may take its default kernel")


# Compilation.


def test_double_backward_through_a_compiled_region_is_refused():
    compiled = torch.compile(lambda x: x.sin().square().sum(), backend="aot_eager")
    x = torch.ones(3, requires_grad=True)
    (first,) = torch.autograd.grad(compiled(x), x, create_graph=True)
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        torch.autograd.grad(first.sum(), x)
        pytest.fail("torch mended this: compilation need not go around the whole meta-loss")


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_whole_meta_loss_compiles_with_its_inner_gradient(backend, generator):
    x, theta = draw(generator, 4, 3), draw(generator, 3, 2)

    def loss(theta):
        return torch.tanh(x @ theta).square().mean()

    def meta_loss(theta):
        return loss(theta - 0.1 * grad(loss)(theta))

    theta.requires_grad_()
    compiled = torch.compile(meta_loss, backend=backend, fullgraph=True)
    got, expected = (torch.autograd.grad(f(theta), theta)[0] for f in (compiled, meta_loss))
    torch.testing.assert_close(got, expected)


def test_autograd_grad_does_not_compile_by_default():
    def inner(theta):
        return torch.autograd.grad(theta.square().sum(), theta, create_graph=True)[0].sum()

    compiled = torch.compile(inner, backend="eager", fullgraph=True)
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r"autograd\.grad"):
        compiled(torch.ones(3, requires_grad=True))
        pytest.fail("torch mended this: task_gradients needs one form only")


# Second derivatives that the inner loop relies on, against finite differences.


def tasks_linear(activate):
    def layer(inputs, weight, bias):
        return activate(functional.linear(inputs, weight, bias))

    return layer


@pytest.mark.parametrize("activate", [torch.relu, torch.tanh])
def test_second_derivatives_of_a_task_batched_layer(activate, generator):
    shapes = (2, 3, 4), (2, 2, 4), (2, 2)
    arguments = tuple(draw(generator, *s).requires_grad_() for s in shapes)
    assert gradcheck(tasks_linear(activate), arguments)
    assert gradgradcheck(tasks_linear(activate), arguments)


def test_second_derivatives_of_max_pooling(generator):
    def pooled(x):
        return functional.max_pool2d(x).square()  # the square: pooling alone is linear

    x = draw(generator, 2, 2, 5, 4).requires_grad_()
    assert gradgradcheck(pooled, x)
    assert gradgradcheck(vmap(pooled), x.unsqueeze(0).detach().requires_grad_())


def test_second_derivatives_of_cross_entropy(generator):
    labels = torch.tensor([0, 2, 1, 1])
    logits = draw(generator, 4, 3).requires_grad_()
    assert gradgradcheck(lambda x: F.cross_entropy(x, labels), logits)
    assert gradgradcheck(lambda x: F.cross_entropy(x, labels, reduction="none"), logits)


# Parameters and views.


class ReadsItsParameters(nn.Module):
    """Returns what it sees of its parameters."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, 2)

    def forward(self):
        """Looks at them while it runs."""
        return {n: p for n, p in self.named_parameters()}


def test_functional_call_shows_its_tensors_to_named_parameters():
    # metarl.models.task_params reads theta this way.
    module = ReadsItsParameters()
    values = {n: torch.zeros_like(p) for n, p in module.named_parameters()}
    seen = functional_call(module, values)
    assert list(seen) == list(values)
    assert all(seen[n] is values[n] for n in values)
    assert all(p is dict(module.named_parameters())[n] for n, p in module().items())


def test_functional_call_shows_traced_tensors_too():
    module = ReadsItsParameters()
    values = {n: p.detach() for n, p in module.named_parameters()}

    def total(values):
        return sum((p.square().sum() for p in functional_call(module, values).values()), 0.0)

    for name, gradient in grad(total)(values).items():
        torch.testing.assert_close(gradient, 2 * values[name])


@pytest.mark.parametrize(
    "change",
    [
        torch.Tensor.detach,
        lambda t: t.detach().requires_grad_(),
        lambda t: t.flatten(1) if t.dim() > 1 else t,
        lambda t: t.mT,
    ],
    ids=["detach", "requires_grad_", "flatten", "mT"],
)
def test_expanded_tensors_keep_a_task_stride_of_zero(change):
    # theta of all tasks is one piece of memory until the first step.
    expanded = torch.ones(2, 4, requires_grad=True).unsqueeze(0).expand(TASKS, 2, 4)
    assert change(expanded).stride(0) == 0
    assert (expanded + torch.zeros(TASKS, 2, 4)).stride(0) != 0


# Numbers.


def test_a_generator_goes_on_from_a_kept_state():
    generator = torch.Generator().manual_seed(3)
    torch.randn(5, generator=generator)
    state = generator.get_state()

    def numbers(g):
        parts = [torch.rand(7, generator=g), torch.randn(7, generator=g)]
        parts.append(torch.randint(100, (7,), generator=g).float())
        parts.append(torch.randperm(7, generator=g).float())
        return torch.cat(parts)

    first = numbers(generator)
    other = torch.Generator()
    other.set_state(state)
    assert torch.equal(numbers(other), first)


def test_the_numbers_of_a_seed_are_those_of_before():
    # Seeds in docs, splits drawn by seed and recorded results rely on these.
    generator = torch.Generator().manual_seed(0)
    assert torch.rand(3, generator=generator).tolist() == pytest.approx(RAND)
    assert torch.randperm(6, generator=generator).tolist() == RANDPERM


def test_lerp_weighs_its_second_argument():
    # Running statistics: lerp(old, new, momentum).
    old, new = torch.tensor([1.0, 2.0]), torch.tensor([5.0, 0.0])
    torch.testing.assert_close(torch.lerp(old, new, 0.25), 0.75 * old + 0.25 * new)
    assert torch.equal(torch.lerp(old, new, 1.0), new)
    assert torch.equal(torch.lerp(old, new, 0.0), old)


def adam_path(fused):
    generator = torch.Generator().manual_seed(0)
    theta = nn.Parameter(torch.randn(301, generator=generator))
    optimizer = torch.optim.Adam([theta], lr=0.01, fused=fused)
    for _ in range(20):
        theta.grad = theta.detach() ** 3 + torch.randn(301, generator=generator)
        optimizer.step()
    return theta.detach()


def test_fused_adam_on_the_cpu_is_adam_and_deterministic():
    fused = adam_path(True)
    assert torch.equal(fused, adam_path(True))
    torch.testing.assert_close(fused, adam_path(False), rtol=1e-5, atol=1e-6)
