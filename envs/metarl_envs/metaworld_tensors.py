"""Meta-World's reach, push and pick-place as families of tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.sim import Tasks, WorldState
from metarl_envs.sawyer import Sawyer, hand_start, start_tcp
from metarl_envs.sawyer_rewards import (
    caging,
    closed,
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
    summary = "a robot arm moves its fingertips to a goal (Meta-World ML1 reach-v3)"
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


@dataclass(frozen=True)
class MetaWorldPush(Sawyer):
    """Meta-World's ML1 push-v3: push a puck to a goal that is not observed."""

    name = "MetaWorldPush-v1"
    file = "sawyer_xyz/sawyer_push_v3.xml"
    bounds = ((-0.1, 0.8, 0.01), (0.1, 0.9, 0.02))
    radius = 0.05
    summary = "a robot arm pushes a puck to a goal (Meta-World ML1 push-v3)"
    reward_text = (
        "2 grip; with the open fingertips at the puck + 1 + 2 grip + 5 tolerance(|puck - goal|; "
        "0.05 m, margin at the start); 10 within 0.05 m"
    )

    def placed(self, things: Tensor, goals: Tensor) -> Tasks:
        """Objects and goals lie at the height at which the puck comes to rest."""
        height = torch.full_like(things[:, 2:], self.start.height)
        return {
            n: torch.cat((v[:, :2], height), 1) for n, v in (("object", things), ("goal", goals))
        }

    def distance_to_goal(self, state: WorldState, tasks: Tasks) -> Tensor:
        return distance(self.thing(state), tasks["goal"])

    def reward(
        self, before: WorldState, actions: Tensor, after: WorldState, tasks: Tasks
    ) -> Tensor:
        thing, tcp = self.thing(after), self.tcp(after)
        start, goal = tasks["object"].to(thing), tasks["goal"].to(thing)
        begin = start_tcp(self.model, thing.dtype, thing.device)
        to_goal = distance(thing, goal)
        in_place = tolerance(to_goal, 0.0, TARGET, distance(start, goal))
        caged = caging(after["pads"][:, :, 1], tcp, thing, start, begin)
        held = 2 * grip(*caged, closed(actions).to(thing))
        at_puck = (distance(thing, tcp) < AT_OBJECT) & (after["frame"][:, 3] > 0)
        reward = torch.where(at_puck, 2 * held + 1 + 5 * in_place, held)
        return torch.where(to_goal < TARGET, 10.0, reward).float()


@dataclass(frozen=True)
class MetaWorldPickPlace(Sawyer):
    """Meta-World's ML1 pick-place-v3: lift a puck to a goal that is not observed."""

    name = "MetaWorldPickPlace-v1"
    file = "sawyer_xyz/sawyer_pick_place_v3.xml"
    radius = 0.07
    summary = "a robot arm lifts a puck to a goal (Meta-World ML1 pick-place-v3)"
    reward_text = (
        "hamacher(grip, in place) + (1 + 5 in place) with the puck lifted between the fingertips, "
        "in place = tolerance(|puck - goal|; 0.05 m, margin at the start); 10 within 0.05 m"
    )

    def distance_to_goal(self, state: WorldState, tasks: Tasks) -> Tensor:
        return distance(self.thing(state), tasks["goal"])

    def reward(
        self, before: WorldState, actions: Tensor, after: WorldState, tasks: Tasks
    ) -> Tensor:
        thing, tcp = self.thing(after), self.tcp(after)
        start, goal = tasks["object"].to(thing), tasks["goal"].to(thing)
        begin = start_tcp(self.model, thing.dtype, thing.device)
        to_goal = distance(thing, goal)
        in_place = tolerance(to_goal, 0.0, TARGET, distance(start, goal))
        caged = placing_caging(after["pads"][:, :, 1], tcp, thing, start, begin)
        reward = hamacher(grip(*caged, closed(actions).to(thing)), in_place)
        lifted = thing[:, 2] - 0.01 > start[:, 2]
        holds = (distance(thing, tcp) < AT_OBJECT) & (after["frame"][:, 3] > 0) & lifted
        reward = torch.where(holds, reward + 1 + 5 * in_place, reward)
        return torch.where(to_goal < TARGET, 10.0, reward).float()
