"""Adapts a policy to one robot or environment, from its own experience there."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from metarl.deploy.adapter import RECURRENT, Adapter, Origin
from metarl.deploy.adapters.adapted_policy import AdaptedPolicy
from metarl.deploy.adapters.experience import finite_step, logged, observed, remember, rolled_back
from metarl.deploy.adapters.inputs import RangeWatch, warn_of_ranges
from metarl.deploy.adapters.running import Curve, evaluate, run_episodes
from metarl.deploy.experience.episode_log import EpisodeLog
from metarl.deploy.experience.log_weights import LOG_OPTIONS, warn_of_lengths, warn_of_times
from metarl.deploy.experience.recorder import Acted, Recorder
from metarl.deploy.experience.trajectories import Trajectory, read_trajectories
from metarl.deploy.robot.actor import Action, Actor, Belief
from metarl.deploy.robot.policy_actor import PolicyActor
from metarl.deploy.robot.recurrent_actor import RecurrentActor
from metarl.deploy.robot.safety import ActionFilter, RollBack, Safety
from metarl.deploy.robot.spaces import ControlSpaces
from metarl.errors import SettingsError, SimulationError
from metarl.models.base import Params
from metarl.ranges import POSITIVE, check_int, check_number, check_type
from metarl.registry import check_choice
from metarl.rl.control_learner import ControlLearner
from metarl.sim.arguments import check_default_type


class ControlAdapter(Adapter):
    """Acts, records the steps, and adapts the policy to them.

        action = adapter.act(observation)
        observation, reward, terminated, truncated, _ = env.step(action)
        adapter.observe(observation, action, reward, terminated, truncated)
        adapter.adapt()  # after whole or part episodes

    A policy that adapts by gradients learns only from actions that it sampled. Held actions, and
    those of another controller, count as a part of the environment. A policy with a memory (RL^2,
    VariBAD) adapts while it acts, so `adapt()` does nothing; `belief` is the posterior of the task
    that VariBAD has inferred.

    Args:
        learner: The trained learner.
        origin: Where it comes from, and the ranges of its training data.
        explore: Whether `act` samples actions; if False, it takes the most likely one. Settable.
        safety: Limits on the actions; None: the bounds of the action space.
        rollback: When to discard an adapted policy and return to the start; None: never.
        seed: Seed of sampled actions.

    Attributes:
        learner: The learner.
        explore: See Args.
        spaces: The spaces of training.
        events: Messages about roll-backs and failures in the background.

    Raises:
        SettingsError: The learner observes the task, a limit does not suit the actions, or torch's
            default type is not float32.
    """

    def __init__(
        self,
        learner: ControlLearner,
        origin: Origin,
        *,
        explore: bool = True,
        safety: Safety | None = None,
        rollback: RollBack | None = None,
        seed: int = 0,
    ) -> None:
        check_default_type("Policies")
        check_type("rollback", rollback, RollBack | None)
        check_type("explore", explore, bool)
        if learner.worlds is not None and learner.worlds.observe_task:
            raise SettingsError(
                "The run trained an oracle, which observes the task: there is nothing to adapt."
            )
        if rollback is not None and learner.plays_trials:
            raise SettingsError(
                "Expected no rollback of a policy with a memory: it has no adapted parameters to "
                "give up. `reset()` lets it forget."
            )
        self.learner: Any = learner
        self.origin, self.explore = origin, explore
        self.family = self.learner.family
        self.spaces = ControlSpaces(self.family.observation_space, self.family.action_space)
        self.events: list[str] = []
        self._filter = ActionFilter(Safety() if safety is None else safety, self.spaces.action)
        self._rollback = rollback
        self._generator = torch.Generator().manual_seed(seed)
        self._weights = None if learner.plays_trials else AdaptedPolicy(learner)
        self._policy_weights = self._weights
        self.reset()

    # Acting

    def act(self, observation: Any, explore: bool | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Returns an action for an observation of the environment.

        An adaptation that has ended in the background takes effect here, between two steps.

        Args:
            observation: As the environment of training gives them, of any dtype.
            explore: See `ControlAdapter`; None: its attribute.

        Returns:
            The action as the environment takes it, inside of all limits.

        Raises:
            ShapeError: The observation has another shape.
            SimulationError: It is not finite, and `Safety.hold` is false.
        """
        self._take_ready()
        recorder = self._recorder
        row, explore = self._actor.row, self.explore if explore is None else explore
        if self.spaces.read(observation, row):
            held = self._filter.held
            own, outer = self._actor.act(explore)
            given = self._filter(outer)
            if self._filter.held > held:
                own, explore = self.own_action(given), False
        else:
            given, explore = self._filter.hold(), False
            own = self.own_action(given)
        recorder.choose(Acted(row.copy(), own, given, explore, self.version))
        return self.spaces.to_environment(given)

    def observe(
        self, observation: Any, action: Any, reward: float, terminated: bool, truncated: bool
    ) -> None:
        """Records the result of an action.

        Args:
            observation: The observation after the action.
            action: The action that was executed. If it differs from that of `act`, it counts as
                that of another controller. None: that of `act`.
            reward: Its reward.
            terminated: Whether the episode terminated.
            truncated: Whether the episode was cut off, such as by a time limit.

        Raises:
            SimulationError: The reward is no finite number, an end is neither true nor false, or
                nothing was observed before the action.
        """
        reward = finite_step(observation, reward, terminated, truncated)
        recorder = self._recorder
        acted = self._executed(action)
        after = np.empty_like(self._actor.row)
        if not self.spaces.read(observation, after):
            after = self._last_finite(acted)
        if not np.isfinite(acted.row).all():
            acted = acted._replace(row=self._last_finite(acted))
        recorder.add(acted, reward, after)
        self._filter.executed(acted.given)
        self._actor.observe(acted.own, reward, bool(terminated or truncated))
        self._watch.add(after)
        if terminated or truncated:
            recorder.end(bool(terminated))
            self._filter.forget()
            self._judge()

    def abandon(self) -> None:
        """Ends the episode without a return, such as when a person resets the robot."""
        self._recorder.abandon()
        self._actor.end()
        self._filter.forget()

    # Adapting

    def adapt(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        trajectories: Any = None,
        *,
        steps: int = 1,
        scale: float | None = None,
        background: bool = False,
        **options: Any,
    ) -> Any:
        """Adapts to what was observed since the last adaptation, or to logged trajectories.

        Args:
            trajectories: Logged episodes in place of the observed ones; see `read_trajectories`.
            steps: Adaptation steps on these data, at least 1.
            scale: Factor on the inner loss, and with it on the rate of gradient descent, above 0.
                None: 1 for as many steps as in training, then 0.5, as in the evaluation of Finn et
                al. 2017, because further full steps often overshoot.
            background: Returns at once. The old policy acts until the new one is ready; then the
                next `act` uses the new one.
            **options: With trajectories: `behaviour`, `correction`, `least_effective`; see `weigh`.

        Returns:
            An `AdaptationReport`; in the background, a `Future` of it.

        Raises:
            SettingsError: There are no data, no sampled actions, or too small an effective sample.
        """
        steps = check_int("steps", steps)
        if options and trajectories is None:
            raise SettingsError(f"Expected trajectories for the options {', '.join(options)}.")
        for name in options:
            check_choice("option", name, LOG_OPTIONS)
        found = [] if trajectories is None else self._read(trajectories)
        if self._weights is None:
            return remember(self._actor, found, self.own_action)
        self._weights.check_idle()
        if trajectories is None:
            experience, report = observed(self.learner, self._weights, self._recorder)
        else:
            experience, report = logged(self, self._weights, found, **options)
        if scale is None:
            scale = self._weights.usual_scale
        check_number("scale", scale, POSITIVE)
        experience = experience._replace(weights=scale * experience.weights)
        if background:
            return self._weights.in_background(experience, report, steps, self.events)
        candidate = self._weights.compute(experience, report, steps)
        self._use(candidate.params, candidate.state, steps)
        return candidate.report

    def run(
        self, env: gymnasium.Env, episodes: int, adapt_every: int | None = None, **options: Any
    ) -> Curve:
        """Acts in an environment and adapts; see `run_episodes`."""
        return run_episodes(self, env, episodes, adapt_every, **options)

    def evaluate(self, env: gymnasium.Env, episodes: int, **options: Any) -> np.ndarray:
        """Returns the returns of episodes without adaptation; see `evaluate`.

        An adaptation in the background takes effect before or after these episodes.
        """
        self._take_ready()
        with nullcontext() if self._weights is None else self._weights.waiting():
            return evaluate(self, env, episodes, **options)

    def reset(self) -> None:
        if self._weights is not None:
            self._weights.reset()
        self._recorder = Recorder(keeps=self._weights is not None)
        self._actor = self._make_actor()
        self._filter.forget()
        self._watch = RangeWatch(self._ranges, "observations")

    def state(self) -> dict[str, Tensor]:
        """Returns the adapted parameters by name; new ones that are ready act from now on.

        Raises:
            SettingsError: The policy is recurrent: it adapts by its memory.
        """
        if self._weights is None:
            raise SettingsError(RECURRENT)
        self._take_ready()
        return {n: p[0].clone() for n, p in self._weights.params.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self._check_state(state, self.state())
        self.reset()
        self._use({n: t.clone().unsqueeze(0) for n, t in state.items()}, None, 0)

    @property
    def version(self) -> int:
        """Number of the parameters that act; 0 is the start."""
        return 0 if self._weights is None else self._weights.version

    @property
    def environment_steps(self) -> int:
        """Environment steps that were observed since the last reset."""
        return self._recorder.steps

    @property
    def belief(self) -> Belief:
        """What the policy has inferred of the task: the posterior of its latent at the last `act`.

        Raises:
            SettingsError: The policy infers no latent (VariBAD does), or has not acted yet.
        """
        found = self._actor.belief
        if found is None:
            raise SettingsError(
                "Expected a policy that infers a latent of the task (`--algorithm varibad`) and "
                "has acted since the last reset: call `act` first."
            )
        return found

    @property
    def held(self) -> int:
        """How often an action was held because an observation or an action was not finite."""
        return self._filter.held

    @property
    def rate(self) -> float | None:
        """Control steps per second of training; None if the family does not define them."""
        seconds = self.family.step_seconds
        return None if seconds is None else 1 / seconds

    @property
    def params(self) -> Params:
        """The parameters that act, [1, *shape] per name; none of a recurrent policy."""
        return {} if self._weights is None else self._weights.params

    @property
    def given(self) -> Action:
        """The last action that `act` returned, flat: [A] float32 or an int."""
        acted = self._recorder.acted
        assert acted is not None
        return acted.given

    def own_action(self, action: Action) -> Action:
        """Returns a flat action of the environment in the policy's units."""
        units = self.learner.policy.units
        if isinstance(action, int) or units is None or units.actions is None:
            return action
        scale = units.actions
        return (action - scale.shift.numpy()) / scale.scale.numpy()

    def discard(self) -> list[EpisodeLog]:
        """Ends the episode, forgets the steps since the last adaptation, and returns them."""
        self.abandon()
        return self._recorder.take()

    def take_back(self, logs: list[EpisodeLog]) -> None:
        """Takes back what `discard` returned, to adapt on it after all."""
        self._recorder.give_back(logs)

    # Internals

    def _make_actor(self) -> Actor:
        policy, size = self.learner.policy, self.spaces.size
        if self._weights is None:
            return RecurrentActor(policy, size, self.spaces.action_size, self._generator)
        return PolicyActor(policy, self._weights.params, size, self._generator)

    def _use(self, params: Params, state: Any, steps: int) -> None:
        """Lets other parameters act from the next `act` on."""
        assert self._weights is not None
        self._weights.install(params, state, steps)
        self._actor = self._make_actor()

    def _take_ready(self) -> None:
        """Lets parameters act that an adaptation in the background has computed."""
        weights = self._weights
        if weights is not None and (found := weights.ready) is not None:
            del weights.ready
            self._use(found.params, found.state, found.report.steps)

    @property
    def _ranges(self) -> dict[str, Any] | None:
        """The ranges of observations in training."""
        return self.spaces.ranges(self.origin.ranges.get("observations"))

    def _executed(self, action: Any) -> Acted:
        """Returns the action that was executed, and who chose it."""
        recorder = self._recorder
        acted = recorder.acted
        if action is None and acted is not None:
            return acted
        executed = self.spaces.flat_action(action)
        if acted is not None and self.spaces.is_given(executed, acted.given):
            return acted
        row = recorder.seen if acted is None else acted.row
        if row is None:
            raise SimulationError(
                "Expected `act(observation)` before the first `observe` of an episode: it gives "
                "the observation that the action was chosen for."
            )
        return Acted(row, self.own_action(executed), executed, False, self.version)

    def _last_finite(self, acted: Acted) -> np.ndarray:
        """Returns the last observation that is finite; zeros if there is none."""
        for row in (acted.row, self._recorder.seen):
            if row is not None and np.isfinite(row).all():
                return row
        return np.zeros_like(self._actor.row)

    def _read(self, trajectories: Any) -> list[Trajectory]:
        found = read_trajectories(trajectories, self.spaces)
        warn_of_lengths(found, self.family.horizon)
        warn_of_times(found, self.family.step_seconds)
        rows = np.concatenate([t.observations for t in found])
        warn_of_ranges(rows, self._ranges, "observations of the log")
        return found

    def _judge(self) -> None:
        """Goes back to the start if the adapted policy does worse."""
        event = rolled_back(self._rollback, self._recorder, self._weights)
        if event is not None:
            self.events.append(event)
            self._actor = self._make_actor()
