"""VariBAD: acts on a posterior of the task, which a variational autoencoder learns to infer."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metarl import ranks
from metarl.errors import SettingsError
from metarl.models.described import described
from metarl.ranges import COUNT, NOT_NEGATIVE, POSITIVE, WIDTH, check_fields
from metarl.rl.distributions import Gaussian
from metarl.rl.moments import Moments, moments_of
from metarl.rl.problem import ControlProblem
from metarl.rl.settings import PolicyGradientSettings
from metarl.rl.trials.belief_policy import BeliefPolicy, as_numbers
from metarl.rl.trials.decoders import TaskDecoders
from metarl.rl.trials.elbo import Drawn, at, bound, choose, divergences
from metarl.rl.trials.play import Trials
from metarl.rl.trials.proximal_learner import ProximalLearner, Reading, RecurrentInputs
from metarl.rl.trials.trial_settings import TrialSettings
from metarl.rl.units import RunningScale
from metarl.sim.family import TaskFamily
from metarl.trees import map_tensors


@described
@dataclass(frozen=True)
class VariBADAlgorithm(TrialSettings):
    """VariBAD (Zintgraf et al. 2020, arXiv:1910.08348): acts on a posterior of the task."""

    latent: int = 5
    """Size of the task's latent m."""
    decoder: tuple[int, ...] = (64, 32)
    """Widths of the decoders' hidden layers, at least one."""
    elbo_weight: float = 1.0
    """Weight of the negative ELBO, per posterior and step, in the loss; above 0."""
    kl_weight: float = 0.1
    """Weight of the KL divergence of successive posteriors in the ELBO (beta), at least 0."""
    observation_weight: float = 0.0
    """Weight of the next observations' likelihood in the ELBO; 0: only rewards are predicted."""
    elbo_terms: int | None = 16
    """Posteriors of each trial that the ELBO takes, chosen at random in each iteration. None:
    all."""
    decoded_steps: int | None = 64
    """Steps of each trial that are predicted from each of these posteriors, chosen at random too.
    None: all."""
    rl_reaches_encoder: bool = False
    """PPO's gradient reaches the encoder too, which otherwise only the ELBO trains."""

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            SettingsError: A setting is out of its range.
        """
        super().__post_init__()
        check_fields(
            self, latent=WIDTH, decoder=WIDTH, elbo_weight=POSITIVE, kl_weight=NOT_NEGATIVE,
            observation_weight=NOT_NEGATIVE, elbo_terms=COUNT, decoded_steps=COUNT,
        )  # fmt: skip
        if not self.decoder:
            raise SettingsError("Expected at least one width in `decoder`, got none.")

    def build(self, problem: ControlProblem, /) -> VariBADLearner:
        """Builds the policy, the decoders and the learner; see `ControlAlgorithm.build`."""
        spaces, options = problem.spaces(), problem.own_policy()
        policy = BeliefPolicy(
            *spaces, problem.generator,
            self.latent, self.units, self.embedding, problem.hidden, problem.init_std,
            options, self.memory_of(problem),
        )  # fmt: skip
        decoders = TaskDecoders(
            spaces[0], policy.action_size, problem.generator, self.latent, self.decoder,
            self.observation_weight > 0, options.cnn,
        )  # fmt: skip
        return VariBADLearner(
            policy, decoders, problem.family, self, problem.gradients,
            task_chunk_size=problem.task_chunk_size, observe_task=problem.observe_task,
        )  # fmt: skip


class InferenceInputs(NamedTuple):
    """What the ELBO of one meta-iteration needs; the transitions are those of `drawn.steps`.

    Attributes:
        drawn: The times and transitions.
        before: Observations in the policy's units, [T, N, D, O].
        actions: Encoded actions, [T, N, D, A].
        after: The observations after them, in the policy's units, [T, N, D, O].
        rewards: Rewards, in deviations from their mean, [T, N, D].
        observations: The observations after them, in deviations from their mean, [T, N, D, O], or
            None if they are not predicted.
        moments: What the running statistics merge, [T] each.
    """

    drawn: Drawn
    before: Tensor
    actions: Tensor
    after: Tensor
    rewards: Tensor
    observations: Tensor | None
    moments: dict[str, Moments]


class VariBADLearner(ProximalLearner):
    """Trains a policy on beliefs by PPO and its encoder by an ELBO (Zintgraf et al. 2020).

    The encoder is the policy's memory. Of each trial of n steps it maximises

        sum_t E_{q(m | tau_:t)}[sum_i log p(r_i | m, s_i, a_i, s_{i+1})] - beta KL(q_t || q_{t-1}),

    where i runs over all steps of the trial, also over those after t, and q_{-1} = N(0, I). The
    likelihood is normal of variance 1, in standard deviations of the rewards in training. The sums
    are estimated from `elbo_terms` times t and `decoded_steps` steps i, and divided by n^2.

    The encoder, decoders, policy and values are trained by one optimiser on the same trials.

    Args:
        policy: The policy, built for the observations of the family.
        decoders: Predict rewards, and next observations if their weight is above 0.
        family: The family of the tasks.
        settings: See `VariBADAlgorithm`.
        gradients: See `ProximalLearner`.
        task_chunk_size: Number of tasks whose trials are played at once. None: all.
        observe_task: Appends the task to the observations (the oracle).

    Raises:
        SettingsError: `gradients` has a setting that this learner does not use, or the decoders do
            not suit the settings.
    """

    keeps_next = True
    policy: BeliefPolicy
    settings: VariBADAlgorithm

    def __init__(
        self,
        policy: BeliefPolicy,
        decoders: TaskDecoders,
        family: TaskFamily,
        settings: VariBADAlgorithm | None = None,
        gradients: PolicyGradientSettings | None = None,
        *,
        task_chunk_size: int | None = None,
        observe_task: bool = False,
    ) -> None:
        settings = settings or VariBADAlgorithm()
        super().__init__(
            policy, family, settings, gradients,
            task_chunk_size=task_chunk_size, observe_task=observe_task,
        )  # fmt: skip
        if (decoders.observation is None) != (settings.observation_weight == 0):
            raise SettingsError(
                "Expected decoders of observations if `observation_weight` is above 0 and else "
                f"none, got the weight {settings.observation_weight:g} and decoders "
                f"{'without' if decoders.observation is None else 'with'} them."
            )
        self.decoders = decoders
        self.reward_scale = RunningScale(1)
        self.observation_scale = None
        if decoders.observation is not None:
            self.observation_scale = RunningScale(decoders.size)

    def draw(self, trials: Trials, total: int, generator: torch.Generator) -> InferenceInputs:
        drawn = self._drawn(trials, total, generator)
        after, steps = self._after(trials), drawn.steps
        moments = {
            "rewards": moments_of(trials.rewards.unsqueeze(3), trials.mask),
            "belief": moments_of(as_numbers(trials.record.belief), trials.mask),
        }
        if self.observation_scale is not None:
            moments["observations"] = moments_of(after, trials.mask)
        scales = self._started(moments, total)
        own, targets = at(after, steps), None
        if "observations" in scales:
            targets = _standard(scales["observations"], own)
        return InferenceInputs(
            drawn,
            at(trials.record.inputs[..., : self.policy.observation_size], steps),
            at(self.policy.encode_actions(trials.actions), steps),
            own,
            _standard(scales["rewards"], at(trials.rewards, steps).unsqueeze(3)).squeeze(3),
            targets,
            moments,
        )

    def read(self, inputs: RecurrentInputs) -> Reading:
        more: InferenceInputs = inputs.more
        network_inputs, mask = inputs.trials.record.inputs, inputs.trials.mask
        beliefs = self.policy.beliefs(network_inputs)
        losses, metrics = self._negative_elbo(beliefs, more, mask)
        seen = beliefs
        if not self.settings.rl_reaches_encoder:
            seen = map_tensors(Tensor.detach, beliefs)
        features = self.policy.seen(network_inputs, seen)
        return Reading(features, losses, metrics, {"statistics": more.moments})

    def after_update(self, carry: dict[str, Any]) -> None:
        """Stores the statistics of rewards, next observations and beliefs too."""
        super().after_update(carry)
        for name, scale in self._scales().items():
            scale.update(carry["statistics"][name])

    # Parts

    def _negative_elbo(
        self, beliefs: Gaussian, more: InferenceInputs, mask: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the weighted negative ELBO of each task, [T], and what training logs of it."""
        drawn, settings = more.drawn, self.settings
        chosen = Gaussian(*(at(part, drawn.times) for part in beliefs))
        latents = chosen.sample(drawn.noise)  # m = mu + sigma * noise
        rewards, observations = self.decoders(latents, more.before, more.actions, more.after)
        pair = None
        if observations is not None and more.observations is not None:
            pair = observations, more.observations
        parts = bound(divergences(beliefs), (rewards, more.rewards), pair, drawn)
        losses = (
            parts.reward
            + settings.observation_weight * parts.observation
            + settings.kl_weight * parts.divergence / mask.sum(2)
        )
        deviations = beliefs.log_std.detach().exp().mean(3)
        last = (mask.sum(2, keepdim=True) - 1).long()
        metrics = {
            "meta/reward_error": 2 * parts.reward.mean(1).detach(),
            "meta/posterior_kl": parts.divergence.mean(1).detach(),
            "meta/posterior_std/first": deviations[:, :, 0].mean(1),
            "meta/posterior_std/last": deviations.gather(2, last).mean((1, 2)),
        }
        if pair is not None:
            metrics["meta/observation_error"] = 2 * parts.observation.mean(1).detach()
        return settings.elbo_weight * losses.mean(1), metrics

    def _drawn(self, trials: Trials, total: int, generator: torch.Generator) -> Drawn:
        """Draws times, transitions and noise for the tasks of all ranks; returns this rank's."""
        _, count, length = trials.mask.shape
        settings, device = self.settings, generator.device
        terms = min(settings.elbo_terms or length, length)
        keys = torch.rand(2, total, count, length, generator=generator, device=device)
        noise = torch.randn(
            total, count, terms, self.policy.latent, generator=generator, device=device
        )
        times, steps, noise = ranks.own((*keys, noise), total)
        return Drawn(
            *choose(trials.mask, times, settings.elbo_terms),
            *choose(trials.mask, steps, settings.decoded_steps),
            noise,
        )

    def _after(self, trials: Trials) -> Tensor:
        """Returns the observations after each step in the policy's units, [T, N, L, O]."""
        after = trials.next_observations
        assert after is not None
        return after if self.units is None else self.units.observe(after)

    def _scales(self) -> dict[str, RunningScale]:
        """Returns the statistics of what is predicted and of the beliefs, by name."""
        scales = {"rewards": self.reward_scale, "belief": self.policy.scale}
        if self.observation_scale is not None:
            scales["observations"] = self.observation_scale
        return scales

    def _started(self, moments: dict[str, Moments], total: int) -> dict[str, RunningScale]:
        """Returns the statistics, or in the first iteration those of its trials."""
        scales = self._scales()
        if self.reward_scale.started:
            return scales
        of_all = ranks.gather(moments, total)
        for name, moved in scales.items():
            scales[name] = copy.deepcopy(moved)
            scales[name].update(of_all[name])
        return scales


def _standard(scale: RunningScale, values: Tensor) -> Tensor:
    """Returns values [*, K] in deviations from their mean."""
    return (values - scale.mean.to(values)) / scale.deviation().to(values)
