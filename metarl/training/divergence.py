"""What can help a run whose outer loss or meta-gradient is not finite."""

from __future__ import annotations

import math

import torch

from metarl.training.outer_update import MetaResult

INNER_LOSS = "inner/loss/step_"

INNER_ADVICE = (
    "Lower the inner rate, adapt in fewer steps, or clip the gradients of the inner loop with "
    "`max_inner_grad_norm`; the outer rate and `max_grad_norm` do not change this iteration"
)
OUTER_ADVICE = (
    "Check the range of the inputs and targets; or resume an earlier checkpoint with a lower outer "
    "rate or `max_grad_norm`, because these weights have diverged"
)


def not_finite_message(result: MetaResult, iteration: int, saved_note: str) -> str:
    """Returns the message of an error: iteration and tasks, what is saved, what can help.

    Args:
        result: The result of the outer update, with losses or gradients that are not finite.
        iteration: Meta-iterations done before it.
        saved_note: What is saved where, as sentences.
    """
    if result.failed is not None:
        result = result.failed()
    bad = (~torch.isfinite(result.losses)).nonzero().flatten().tolist()
    which = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
    which = which or "unknown: the losses are finite, the gradient is not"
    return (
        f"The outer loss is not finite at meta-iteration {iteration}, task(s) {which}. "
        f"{saved_note} {divergence_advice(result)}"
    )


def divergence_advice(result: MetaResult) -> str:
    """Returns which of the two loops diverged, and what can help, as sentences.

    The inner loop diverged if the support losses were finite before its first step, and something
    after it is not.

    Args:
        result: The result of the outer update, with losses or gradients that are not finite.
    """
    inner = {
        int(tag.removeprefix(INNER_LOSS)): value
        for tag, value in result.metrics.items()
        if tag.startswith(INNER_LOSS)
    }
    if 0 not in inner:
        return f"{OUTER_ADVICE}."
    bad = ~torch.isfinite(result.losses)
    if not bad.any():
        return f"The derivative through the inner loop overflows. {INNER_ADVICE}."
    before = inner[0][bad]
    if not before.isfinite().all():
        return f"The support loss is not finite before the first inner step. {OUTER_ADVICE}."
    losses = [inner[step][bad][0].item() for step in sorted(inner)]
    if all(math.isfinite(loss) for loss in losses):
        return (
            "The support losses are finite and the outer loss is not: the last inner step "
            f"diverges, or the queries hold numbers that are not finite. {INNER_ADVICE}."
        )
    path = ", ".join(f"{loss:.3g}" for loss in losses)
    return (
        f"The inner loop diverges: the support loss of task {int(bad.nonzero()[0])} before each "
        f"inner step is {path}. {INNER_ADVICE}."
    )
