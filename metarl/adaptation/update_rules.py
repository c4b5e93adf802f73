"""The interface of update rules, and the rules that scale the gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from metarl.errors import SettingsError
from metarl.models.base import Params
from metarl.ranges import ANY, NOT_NEGATIVE, Range, check_int, check_number

State = dict[str, Any]
"""What a rule remembers between steps: tensors with the tasks leading, numbers, dicts of them."""


class UpdateRule(nn.Module, ABC):
    """Interface of an update rule: a pair of pure functions, `init` and `update`.

    Parameters of the module are what the rule itself learns in the outer loop (rates, weights of
    an LSTM); its buffers are what passes from one batch of tasks to the next (see `carry`).
    """

    differentiates_gradient: bool = True
    """False: the rule takes gradients as constants, even if second order is requested."""
    carries: bool = False
    """True: the final state of a batch of tasks is given to `carry` after the outer update."""

    reads_logarithms: bool = False
    """True: the rule reads logarithms of gradients, which make their rounding errors larger."""

    def init(self, params: Params) -> State:
        """Returns the state before the first step; nothing for rules that remember nothing.

        Args:
            params: The parameters that will be adapted, [T, *shape] per name.
        """
        del params
        return {}

    @abstractmethod
    def update(
        self, grads: Params, state: State, params: Params, loss: Tensor
    ) -> tuple[Params, State]:
        """Takes one adaptation step.

        Args:
            grads: Gradient of each task's own loss, [T, *shape] per name.
            state: What `init` or the step before returned; never changed in place.
            params: The parameters before the step, [T, *shape] per name.
            loss: The loss of each task before the step, [T].

        Returns:
            The parameters after the step and the new state.
        """

    def carry(self, state: State) -> None:
        """Takes over, after an outer update, what the final `state` of its tasks passes on."""
        del state


class GradientDescent(UpdateRule):
    """theta <- theta - lr * grad (Finn et al. 2017, equation 1).

    Args:
        lr: Inner learning rate, above 0.
    """

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.lr = check_rate(lr)

    def update(
        self, grads: Params, state: State, params: Params, loss: Tensor
    ) -> tuple[Params, State]:
        del loss
        # Added, not subtracted: one operation fewer in each derivative.
        # theta' = theta - alpha grad
        return {n: torch.add(p, grads[n], alpha=-self.lr) for n, p in params.items()}, state


class PerParameterRates(UpdateRule):
    """theta <- theta - alpha o grad with a learned rate per parameter: Meta-SGD (Li et al. 2017).

    The rates may turn negative, as in the paper.

    Args:
        params: The parameters that will be adapted, without a task dimension.
        generator: Source of the initial rates.
        low: Lower end of the uniform distribution of the initial rates.
        high: Its upper end, at least `low`.
    """

    def __init__(
        self, params: Params, generator: torch.Generator, low: float = 0.005, high: float = 0.1
    ) -> None:
        super().__init__()
        check_ends(low, high)
        self.rates = nn.ParameterDict()
        for name, p in params.items():
            rate = torch.rand(p.shape, generator=generator, dtype=p.dtype, device=p.device)
            self.rates[table_key(name)] = nn.Parameter(low + (high - low) * rate)

    def init(self, params: Params) -> State:
        """Returns no state.

        Raises:
            SettingsError: A parameter has no rate.
        """
        check_known(params, self.rates)
        return {}

    def update(
        self, grads: Params, state: State, params: Params, loss: Tensor
    ) -> tuple[Params, State]:
        del loss
        rates = self.rates
        return {n: p - rates[table_key(n)] * grads[n] for n, p in params.items()}, state


class PerStepRates(UpdateRule):
    """Learned rate per parameter tensor and step: MAML++'s LSLR (Antoniou et al. 2019, sec. 4).

    Steps beyond the trained ones use the last rate.

    Args:
        params: The parameters that will be adapted, without a task dimension.
        lr: Initial rate of the first step, above 0.
        steps: Number of steps that have separate rates, at least 1.
        later: Factor on the initial rate of the other steps, above 0.
    """

    def __init__(self, params: Params, lr: float, steps: int, later: float = 1.0) -> None:
        super().__init__()
        check_int("steps", steps)
        self.steps = steps
        factors = [1.0] + [check_number("later_rates", later)] * (steps - 1)
        rates = torch.tensor(factors, dtype=torch.float64) * check_rate(lr)
        self.rates = nn.ParameterDict(
            {table_key(n): nn.Parameter(rates.to(p, copy=True)) for n, p in params.items()}
        )

    def init(self, params: Params) -> State:
        """Returns the count of steps.

        Raises:
            SettingsError: A parameter has no rates.
        """
        check_known(params, self.rates)
        return {"step": 0}

    def update(
        self, grads: Params, state: State, params: Params, loss: Tensor
    ) -> tuple[Params, State]:
        del loss
        rates = {n: self._rate(table_key(n), state["step"]) for n in params}
        moved = {n: p - rates[n] * grads[n] for n, p in params.items()}
        return moved, {"step": state["step"] + 1}

    def _rate(self, key: str, step: int | Tensor) -> Tensor:
        """Returns the rate of a step, []; its number is a tensor [] in an exported graph."""
        last = self.steps - 1
        if isinstance(step, Tensor):
            return self.rates[key].index_select(0, step.clamp(max=last).view(1)).squeeze(0)
        return self.rates[key][min(step, last)]


class Adam(UpdateRule):
    """Adam (Kingma & Ba 2015) with beta1 = 0: the inner optimiser of Reptile (Nichol et al. 2018).

    Second moments and step count are carried across tasks, as in the paper's code. Tasks there
    come one after another; here the tasks of a batch start from the same moments, and the mean of
    what they end with is carried on.

    Args:
        params: The parameters that will be adapted, without a task dimension.
        lr: Step size, above 0.
        beta2: Decay of the second moments, in [0, 1).
        epsilon: Added to the root of the second moment.
    """

    differentiates_gradient = False
    carries = True

    def __init__(
        self, params: Params, lr: float, beta2: float = 0.999, epsilon: float = 1e-8
    ) -> None:
        super().__init__()
        self.lr = check_rate(lr)
        self.beta2 = check_number("beta2", beta2, Range(0, 1, includes_high=False))
        self.epsilon = check_number("epsilon", epsilon, NOT_NEGATIVE)
        self._names = list(params)
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        for i, p in enumerate(params.values()):
            self.register_buffer(f"second_moment_{i}", torch.zeros_like(p, requires_grad=False))

    def init(self, params: Params) -> State:
        """Returns the moments carried from earlier tasks.

        Raises:
            SettingsError: A parameter has no moments.
        """
        check_known(params, map(table_key, self._names))
        moments = {
            n: self.get_buffer(f"second_moment_{i}").expand_as(params[n])
            for i, n in enumerate(self._names)
            if n in params
        }
        num_tasks = next(iter(params.values())).shape[0]
        return {"moments": moments, "count": self.get_buffer("count").expand(num_tasks)}

    def update(
        self, grads: Params, state: State, params: Params, loss: Tensor
    ) -> tuple[Params, State]:
        del loss
        count = state["count"] + 1
        correction = (1 - self.beta2**count).sqrt()
        moved, moments = {}, {}
        for n, p in params.items():
            g = grads[n]
            moments[n] = torch.lerp(g.square(), state["moments"][n], self.beta2)
            scale = (self.lr * correction).to(p.dtype).view(-1, *[1] * (p.dim() - 1))
            moved[n] = p - scale * g / (moments[n].sqrt() + self.epsilon)
        return moved, {"moments": moments, "count": count}

    @torch.no_grad()
    def carry(self, state: State) -> None:
        self.get_buffer("count").copy_(state["count"].mean())
        for i, n in enumerate(self._names):
            if n in state["moments"]:
                self.get_buffer(f"second_moment_{i}").copy_(state["moments"][n].mean(0))


_TABLE = nn.ParameterDict()


def table_key(name: str) -> str:
    """Returns a parameter's name in a form that module tables accept.

    They refuse dots, and names of their own attributes, such as "keys".
    """
    key = name.replace(".", "/")
    return f"/{key}" if hasattr(_TABLE, key) else key


def check_known(params: Params, keys: Iterable[str]) -> None:
    """Checks that a rule has rates or moments for all parameters that adapt.

    Args:
        params: The parameters that adapt.
        keys: The parameters that have them, in the form of `table_key`.

    Raises:
        SettingsError: One has none.
    """
    known = set(keys)
    unknown = [name for name in params if table_key(name) not in known]
    if unknown:
        raise SettingsError(
            f"Expected the parameters that the network had when its update rule was built, got "
            f"{', '.join(unknown[:3])} in addition, for which the rule has no rate or moment. Add "
            "parameters before the algorithm is built, or name these in `frozen`."
        )


def check_rate(lr: float) -> float:
    """Returns `lr` if it is a usable learning rate.

    Raises:
        SettingsError: It is not finite or not above 0.
    """
    return check_number("inner_lr", lr)


def check_ends(low: float, high: float) -> None:
    """Raises SettingsError unless both are finite numbers and `low` is not above `high`."""
    check_number("low", low, ANY)
    check_number("high", high, ANY)
    if low > high:
        raise SettingsError(f"Expected finite rates low <= high, got {low} and {high}.")
