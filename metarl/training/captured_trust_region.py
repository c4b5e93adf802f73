"""A trust-region iteration on a GPU: the step is accepted by masks, on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from metarl.adaptation.learner import MetaLoss
from metarl.flat_functions import Bound
from metarl.rl.fisher import flatten, unflatten
from metarl.rl.policy_inputs import PolicyInputs
from metarl.training.meta_gradient import MetaGradient, norm_of
from metarl.training.outer_update import MetaResult

FindStep = Callable[[Sequence[Tensor], Tensor, PolicyInputs], Tensor]
Judge = Callable[[PolicyInputs], tuple[Tensor, Tensor]]


class Try(NamedTuple):
    """A try of the line search.

    Attributes:
        params: The parameters after it: those of the try if it is accepted, else as they were.
        accepted: Whether it is, [] bool.
        divergence: The mean divergence of the adapted policies if it is, else 0; [].
    """

    params: list[Tensor]
    accepted: Tensor
    divergence: Tensor


class Start(NamedTuple):
    """The part of an iteration that is always computed.

    Attributes:
        result: The learner's output for all tasks.
        norm: The norm of the meta-gradient, [].
        finite: Whether losses and gradient are finite, [] bool.
        step: The whole step, [P].
        first: The first try, of the whole step; not accepted if something is not finite.
    """

    result: MetaLoss
    norm: Tensor
    finite: Tensor
    step: Tensor
    first: Try


class CapturedTrustRegion:
    """Takes the step of a trust region without decisions of the host, as CUDA graphs.

    One graph holds the meta-gradient, the conjugate gradient and the first try of the line search;
    another holds a further try. The device decides whether a try is accepted, and keeps the
    parameters by masks if it is not. After each try the host reads whether one is accepted, only
    to leave out the others: a try costs many times the wait, and few are needed. In the same
    transfer it reads whether the numbers are finite.

    Args:
        gradient: Computes the meta-gradient.
        find_step: Returns the whole step [P] for the leaves of the parameters, a gradient [P] and
            the inputs of all tasks; reads no value.
        judge: Returns loss and divergence of each task, [T]; reads no value.
        max_kl: See `TrustRegionSettings`.
        backtrack_ratio: See `TrustRegionSettings`.
        max_backtracks: See `TrustRegionSettings`.
    """

    def __init__(
        self,
        gradient: MetaGradient,
        find_step: FindStep,
        judge: Judge,
        max_kl: float,
        backtrack_ratio: float,
        max_backtracks: int,
    ) -> None:
        self._gradient = gradient
        self._find_step = find_step
        self._max_kl = max_kl
        self._ratio = backtrack_ratio
        self._tries = max_backtracks
        self._judged = Bound(gradient.learner, judge)
        names = {id(p): name for name, p in self._judged.named_parameters()}
        self._names = [names[id(p)] for p in gradient.params]
        self._start = gradient.captured("trust-region steps", self._start_of_leaves)
        self._further = gradient.captured("tries of the line search", self._try)

    @torch.no_grad()
    def __call__(self, inputs: PolicyInputs) -> MetaResult:
        """Moves the parameters by the first share of the step that is accepted, or not at all.

        Args:
            inputs: The inputs of the meta-iteration, whose tasks fit into one chunk.

        Raises:
            SettingsError: See `MetaGradient`.
        """
        assert self._start is not None and self._further is not None
        self._gradient.check()
        params: list[Tensor] = list(self._gradient.params)
        start: Start = self._start(inputs, self._gradient.total_tasks(inputs))
        result, norm, _, step, (new, accepted, divergence) = start
        torch._foreach_copy_(params, new)
        is_finite, done = torch.stack((start.finite, accepted)).tolist()
        metrics, tries = dict(result.metrics), 1
        if is_finite:
            loss = result.losses.mean()
            while not done and tries < self._tries:
                share = torch.full_like(step[0], self._ratio**tries)
                new, accepted, divergence = self._further(inputs, step, share, loss)
                torch._foreach_copy_(params, new)
                done, tries = bool(accepted), tries + 1
            metrics |= search_metrics(done, tries, divergence)
        return MetaResult(result.losses, metrics, result.carry, norm, is_finite)

    def _start_of_leaves(self, leaves: Sequence[Tensor], inputs: PolicyInputs, total: int) -> Start:
        grads, result = self._gradient.of_leaves(leaves, inputs, total)
        norm = norm_of([g for g in grads if g is not None])
        finite = (result.losses.sum() + norm).isfinite()
        gradient = flatten(
            [torch.zeros_like(p) if g is None else g for g, p in zip(grads, leaves, strict=True)]
        )
        step = self._find_step(leaves, gradient, inputs)
        loss = result.losses.detach().mean()
        first = self._try(leaves, inputs, step, torch.ones_like(loss), loss, finite)
        return Start(result, norm, finite, step, first)

    @torch.no_grad()
    def _try(
        self,
        leaves: Sequence[Tensor],
        inputs: PolicyInputs,
        step: Tensor,
        share: Tensor,
        loss: Tensor,
        allowed: Tensor | None = None,
    ) -> Try:
        """Tries a share of the step from the parameters `leaves`; see `Try`.

        Args:
            leaves: The parameters to start from.
            inputs: The inputs of all tasks.
            step: The whole step, [P].
            share: The share of it that is tried, [].
            loss: The mean loss before the step, [].
            allowed: Whether a try may be accepted at all, [] bool; None: yes.
        """
        moves = unflatten(step, leaves)
        # theta_new = theta + ratio^j * step
        moved = [p + share * move for p, move in zip(leaves, moves, strict=True)]
        losses, divergences = self._at(moved, inputs)
        divergence = divergences.sum() / len(divergences)
        # L(theta_new) < L(theta) and KL <= delta; comparisons with NaN are false.
        accepted = (losses.mean() < loss) & (divergence <= self._max_kl)
        if allowed is not None:
            accepted = accepted & allowed
        params = [torch.where(accepted, n, p) for n, p in zip(moved, leaves, strict=True)]
        return Try(params, accepted, torch.where(accepted, divergence, 0))

    def _at(self, params: Sequence[Tensor], inputs: PolicyInputs) -> tuple[Tensor, Tensor]:
        """Returns loss and divergence of each task at other parameters of the learner."""
        state = dict(zip(self._names, params, strict=True))
        return functional_call(self._judged, state, (inputs,))


def search_metrics(accepted: bool, tries: int, divergence: Tensor) -> dict[str, Tensor]:
    """Returns what training logs of a line search.

    Args:
        accepted: Whether a try was accepted.
        tries: The number of tries.
        divergence: The mean divergence of the last one, [].
    """
    return {
        "meta/line_search/accepted": torch.tensor(float(accepted)),
        "meta/line_search/tries": torch.tensor(float(tries)),
        "meta/kl": divergence if accepted else torch.zeros(()),
    }
