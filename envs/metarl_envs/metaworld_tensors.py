"""Meta-World's reach, push and pick-place as families of tensors."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from metarl.sim import Tasks, WorldState
from metarl_envs.sawyer import Sawyer, hand_start, start_tcp
from metarl_envs.sawyer_rewards import (
    caging,
    distance,
    grip,
    hamacher,
    placing_caging,
    tolerance,
)

TARGET = 0.05  # m: rewards are full within this distance of the goal
AT_OBJECT = 0.02  # m between fingertips and object


@dataclass(frozen=True)
class MetaWorldReach(Sawyer):
    """Meta-World's ML1 reach-v3: move the fingertips to a goal that is not observed."""

    name = "MetaWorldReach-v1"
    file = "sawyer_xyz/sawyer_reach_v3.xml"
    radius = 0.05
    summary = "a robot arm moves its fingertips to a goal (Meta-World ML1, reach v3)"
    reward_text = "10 tolerance(|tcp - goal|; 0.05 m, margin |hand's start - goal|)"

    def distance_to_goal(self, state: WorldState, tasks: Tasks) -> Tensor:
        return distance(self.tcp(state), tasks["goal"])

    def reward(
        self, before: WorldState, actions: Tensor, after: WorldState, tasks: Tasks
    ) -> Tensor:
        goal = tasks["goal"]
        margin = distance(hand_start(goal.dtype, goal.device), goal)
        near = self.distance_to_goal(after, tasks)
        return (10 * tolerance(near, 0.0, TARGET, margin.to(near))).float()


class Moment(NamedTuple):
    """What the reward of moving a puck is computed from, after a step of W worlds.

    Attributes:
        pads: y of the left and the right pad, [W, 2].
        tcp: Centre of the fingertips, [W, 3].
        thing: Position of the puck, [W, 3].
        start: Position of the puck at the start, [W, 3].
        begin: Centre of the fingertips at the start, [3].
        effort: How far the gripper is told to close, 0..1, [W].
        in_place: How near the puck is to the goal, 0..1, [W].
        at_puck: Whether the fingertips are open and at the puck, [W] bool.
    """

    pads: Tensor
    tcp: Tensor
    thing: Tensor
    start: Tensor
    begin: Tensor
    effort: Tensor
    in_place: Tensor
    at_puck: Tensor


@dataclass(frozen=True)
class MovedPuck(Sawyer):
    """Base class of the tasks in which a puck is brought to a goal; there the reward is 10."""

    @abstractmethod
    def pay(self, moment: Moment) -> Tensor:
        """Returns the reward of a step away from the goal, [W]."""

    def distance_to_goal(self, state: WorldState, tasks: Tasks) -> Tensor:
        return distance(self.thing(state), tasks["goal"])

    def reward(
        self, before: WorldState, actions: Tensor, after: WorldState, tasks: Tasks
    ) -> Tensor:
        thing, tcp = self.thing(after), self.tcp(after)
        start, goal = tasks["object"].to(thing), tasks["goal"].to(thing)
        to_goal = distance(thing, goal)
        moment = Moment(
            after["pads"][:, :, 1],
            tcp,
            thing,
            start,
            start_tcp(self.model, thing.dtype, thing.device),
            actions[:, 3].clamp(0, 1).to(thing),
            tolerance(to_goal, 0.0, TARGET, distance(start, goal)),
            (distance(thing, tcp) < AT_OBJECT) & (after["frame"][:, 3] > 0),
        )
        return torch.where(to_goal < TARGET, 10.0, self.pay(moment)).float()


@dataclass(frozen=True)
class MetaWorldPush(MovedPuck):
    """Meta-World's ML1 push-v3: push a puck to a goal that is not observed."""

    name = "MetaWorldPush-v1"
    file = "sawyer_xyz/sawyer_push_v3.xml"
    bounds = ((-0.1, 0.8, 0.01), (0.1, 0.9, 0.02))
    radius = 0.05
    summary = "a robot arm pushes a puck to a goal (Meta-World ML1, push v3)"
    reward_text = (
        "2 grip; with the open fingertips at the puck + 1 + 2 grip + 5 tolerance(|puck - goal|; "
        "0.05 m, margin at the start); 10 within 0.05 m"
    )

    def placed(self, things: Tensor, goals: Tensor) -> Tasks:
        """Objects and goals lie at the height at which the puck comes to rest."""
        height = torch.full_like(things[:, 2:], self.start.height)
        places = {"object": things, "goal": goals}
        return {n: torch.cat((v[:, :2], height), 1) for n, v in places.items()}

    def pay(self, moment: Moment) -> Tensor:
        sides, front = caging(*moment[:5])
        held = 2 * grip(sides, front, moment.effort)
        return torch.where(moment.at_puck, 2 * held + 1 + 5 * moment.in_place, held)


@dataclass(frozen=True)
class MetaWorldPickPlace(MovedPuck):
    """Meta-World's ML1 pick-place-v3: lift a puck to a goal that is not observed."""

    name = "MetaWorldPickPlace-v1"
    file = "sawyer_xyz/sawyer_pick_place_v3.xml"
    radius = 0.07
    summary = "a robot arm lifts a puck to a goal (Meta-World ML1, pick-place v3)"
    reward_text = (
        "hamacher(grip, in place) + (1 + 5 in place) with the puck lifted between the fingertips, "
        "in place = tolerance(|puck - goal|; 0.05 m, margin at the start); 10 within 0.05 m"
    )

    def pay(self, moment: Moment) -> Tensor:
        sides, front = placing_caging(*moment[:5])
        held = grip(sides, front, moment.effort)
        reward = hamacher(held, moment.in_place)
        lifted = moment.thing[:, 2] - 0.01 > moment.start[:, 2]
        return torch.where(moment.at_puck & lifted, reward + 1 + 5 * moment.in_place, reward)
