"""MAML of an ordinary module, one task after the other, in plain torch."""

import torch
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode


class PlainWeightNorm(TorchFunctionMode):
    """Weight normalisation by its formula, for torch's own of the CPU."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Computes v g / ||v||, the norm over all dimensions but the first."""
        if func is torch._weight_norm:
            v, g, dim = args
            assert dim == 0
            return v * (g / v.flatten(1).norm(dim=1).view(-1, *[1] * (v.dim() - 1)))
        return func(*args, **(kwargs or {}))


def tied_call(net, params, inputs):
    """Calls a module with other parameters; tied ones have the name that comes first."""
    buffers = {n: b.clone() for n, b in net.named_buffers()}
    # the other kernels of attention have no second derivative, that of weight_norm a wrong one
    with sdpa_kernel(SDPBackend.MATH), PlainWeightNorm():
        return functional_call(net, {**params, **buffers}, (inputs,))


def adapt(net, loss, params, inputs, targets, rate, steps):
    """Gradient descent of one task's support loss; differentiable."""
    moving = {n for n, p in net.named_parameters() if p.requires_grad}
    for _ in range(steps):
        value = loss(tied_call(net, params, inputs), targets)
        names = [n for n in params if n in moving]
        grads = torch.autograd.grad(
            value, [params[n] for n in names], create_graph=True, allow_unused=True
        )
        steps_of = {n: g for n, g in zip(names, grads, strict=True) if g is not None}
        params = {n: p - rate * steps_of[n] if n in steps_of else p for n, p in params.items()}
    return params


def maml(net, loss, tasks, rate, steps):
    """The query loss of each task, the gradient of their mean, and the adapted parameters."""
    theta = dict(net.named_parameters())
    losses, adapted = [], []
    for t in range(tasks.num_tasks):
        params = {n: p.clone() for n, p in theta.items()}
        phi = adapt(
            net, loss, params, tasks.support.inputs[t], tasks.support.targets[t], rate, steps
        )
        losses.append(loss(tied_call(net, phi, tasks.query.inputs[t]), tasks.query.targets[t]))
        adapted.append({n: p.detach() for n, p in phi.items()})
    trained = [p for p in theta.values() if p.requires_grad]
    grads = torch.autograd.grad(torch.stack(losses).mean(), trained, allow_unused=True)
    names = [n for n, p in theta.items() if p.requires_grad]
    return torch.stack(losses).detach(), dict(zip(names, grads, strict=True)), adapted
