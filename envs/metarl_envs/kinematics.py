"""Computes the centre of mass of a robot and its velocity from positions and velocities."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import mujoco
import numpy as np
import torch
from torch import Tensor

from metarl.sim.mujoco.physics import compile_model

mj: Any = mujoco  # type checkers cannot see into its compiled modules


class Skeleton:
    """A robot as a tree of rigid links joined by hinges, on a free or sliding base.

    It uses only positions and velocities, because MuJoCo's `subtree_com` lags behind them by one
    MuJoCo step and engines compute it differently.

    Args:
        model: A compiled `mujoco.MjModel` of one robot; only its root may slide or be free.
        like: A floating-point tensor with the dtype and device of the results.
    """

    def __init__(self, model: Any, like: Tensor) -> None:
        device = like.device
        links = _Links(model)
        self._free = links.free
        self._start = _tensor(links.base, like)
        self._slides = _tensor(np.reshape(links.slides, (-1, 3)), like)
        self._slide_rest = _tensor(model.qpos0[: len(links.slides)], like)
        first = 7 if self._free else len(links.slides)
        self._positions, self._velocities = first, 6 if self._free else first
        order = np.argsort(links.depth[1:], kind="stable") + 1  # hinges, sorted by depth
        places = {0: 0} | {int(link): i + 1 for i, link in enumerate(order)}
        self._order = torch.as_tensor(order - 1, device=device)
        self._rest = _tensor(model.qpos0[first:], like)[self._order]
        self._levels: list[tuple[Tensor, slice]] = []
        levels = np.array(links.depth)[order]
        before = 0  # index of the first link of the level above
        for level in range(1, int(levels.max()) + 1):
            members = np.flatnonzero(levels == level)
            parents = [places[links.parent[order[m]]] - before for m in members]
            hinges = slice(int(members[0]), int(members[-1]) + 1)
            self._levels.append((torch.tensor(parents, device=device), hinges))
            before = int(members[0]) + 1
        turn, axis = np.array(links.turn)[order], np.array(links.axis)[order]
        # Rodrigues' formula: R(w) = a a^T + sin(w) [a]_x + cos(w) (I - a a^T)
        outer = axis[:, :, None] * axis[:, None, :]
        cross = np.cross(axis[:, None, :], np.eye(3)[None]).transpose(0, 2, 1)
        parts = (turn @ outer, turn @ cross, turn @ (np.eye(3) - outer))
        self._fixed, self._sine, self._cosine = (_tensor(p, like) for p in parts)
        self._axes = _tensor(axis[..., None], like)
        self._offset = _tensor(np.array(links.offset)[order][..., None], like)
        ordered_links = [0, *order]
        mass = np.array(links.mass)[ordered_links]
        self._moment = _tensor(np.array(links.moment)[ordered_links][..., None] / mass.sum(), like)
        self._share = _tensor(mass[:, None] / mass.sum(), like)
        self._below = _tensor(_descendants([places[links.parent[link]] for link in order]), like)

    def motion(self, qpos: Tensor, qvel: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the centre of mass and its velocity.

        Args:
            qpos: Generalised positions, [W, nq].
            qvel: Generalised velocities, [W, nv].

        Returns:
            The centre of mass in m and its velocity in m/s, [W, 3] each.
        """
        origins, turns = self._link_frames(qpos)
        moments = self._moments(origins, turns)
        centre, base = moments.sum(1), origins[:, 0]
        # v = v_base + sum_j w_j a_j x s_j, with s_j = sum_l m_l (c_l - o_j) / M over the links l
        # that hinge j moves; o_j is its origin, a_j its axis and w_j its angular velocity.
        shares = self._below @ moments - (self._below @ self._share) * origins[:, 1:]
        axes = (turns[:, 1:] @ self._axes).squeeze(3)
        speeds = qvel[:, self._velocities :][:, self._order].unsqueeze(2)
        velocity = (speeds * torch.linalg.cross(axes, shares)).sum(1)
        if not self._free:
            return centre, velocity + qvel[:, : self._velocities] @ self._slides
        spin = (turns[:, 0] @ qvel[:, 3:6].unsqueeze(2)).squeeze(2)
        return centre, velocity + qvel[:, :3] + torch.linalg.cross(spin, centre - base)

    def centre(self, qpos: Tensor) -> Tensor:
        """Returns the centre of mass in m, [W, 3], for positions [W, nq]."""
        return self._moments(*self._link_frames(qpos)).sum(1)

    def _link_frames(self, qpos: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the links' origins [W, L, 3] and their rotation matrices [W, L, 3, 3]."""
        if self._free:
            origin, turn = qpos[:, :3], rotation(qpos[:, 3:7])
        else:
            displacement = qpos[:, : self._positions] - self._slide_rest
            origin = self._start + displacement @ self._slides
            turn = torch.eye(3, dtype=qpos.dtype, device=qpos.device).expand(len(qpos), 3, 3)
        angles = (qpos[:, self._positions :][:, self._order] - self._rest)[..., None, None]
        local = self._fixed + angles.sin() * self._sine + angles.cos() * self._cosine
        origins, turns = [origin.unsqueeze(1)], [turn.unsqueeze(1)]
        for parents, members in self._levels:
            parent = turns[-1][:, parents]
            origins.append(origins[-1][:, parents] + (parent @ self._offset[members]).squeeze(3))
            turns.append(parent @ local[:, members])
        return torch.cat(origins, 1), torch.cat(turns, 1)

    def _moments(self, origins: Tensor, turns: Tensor) -> Tensor:
        """Returns m_l c_l / M of each link l, [W, L, 3]; their sum is the centre of mass."""
        return self._share * origins + (turns @ self._moment).squeeze(3)


def skeleton(model: str, like: Tensor) -> Skeleton:
    """Returns the skeleton of a model, cached per model, dtype and device.

    Args:
        model: Path of an MJCF file, or its text.
        like: A floating-point tensor with the dtype and device of the results.
    """
    return _skeleton(model, like.dtype, like.device)


@lru_cache(maxsize=16)
def _skeleton(model: str, dtype: torch.dtype, device: torch.device) -> Skeleton:
    return Skeleton(compile_model(model), torch.empty(0, dtype=dtype, device=device))


def rotation(quaternion: Tensor) -> Tensor:
    """Returns the rotation matrices [W, 3, 3] of quaternions (w, x, y, z), [W, 4], of any norm."""
    w, x, y, z = (quaternion / quaternion.norm(dim=1, keepdim=True)).unbind(1)
    rows = (
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    )  # fmt: skip
    return torch.stack(rows, 1).view(-1, 3, 3)


class _Links:
    """The links of a robot: link 0 is the base; each hinge has one link.

    A body without a hinge belongs to its parent's link. The origin of a link's frame is its hinge.
    `offset` and `turn` transform the parent's frame to the link's at the rest angle; `moment` is
    the sum of mass times position in the link's frame.
    """

    def __init__(self, model: Any) -> None:
        self.free = bool(model.jnt_type[0] == mj.mjtJoint.mjJNT_FREE)
        self.base = np.zeros(3)
        self.slides: list[np.ndarray] = []
        self.parent, self.depth, self.mass = [-1], [0], [0.0]
        self.offset, self.turn = [np.zeros(3)], [np.eye(3)]
        self.axis, self.moment = [np.zeros(3)], [np.zeros(3)]
        # Body -> its link, its position and its rotation in the link's frame.
        frames = {0: (0, np.zeros(3), np.eye(3))}
        for body in range(1, model.nbody):
            link, place, turn = frames[int(model.body_parentid[body])]
            place = place + turn @ model.body_pos[body]
            turn = turn @ _matrix(model.body_quat[body])
            for joint in np.flatnonzero(model.jnt_bodyid == body):
                link, place, turn = self._join(model, int(joint), link, place, turn)
            frames[body] = (link, place, turn)
            self.mass[link] += model.body_mass[body]
            centre = place + turn @ model.body_ipos[body]
            self.moment[link] = self.moment[link] + model.body_mass[body] * centre

    def _join(
        self, model: Any, joint: int, link: int, place: np.ndarray, turn: np.ndarray
    ) -> tuple[int, np.ndarray, np.ndarray]:
        """Adds a joint to the links; returns the body's link and its pose in the link's frame."""
        kind, axis = model.jnt_type[joint], model.jnt_axis[joint]
        if kind == mj.mjtJoint.mjJNT_FREE:
            return 0, np.zeros(3), np.eye(3)
        if kind == mj.mjtJoint.mjJNT_SLIDE:
            assert link == 0 and not self.free, "only the root of a robot may slide"
            self.slides.append(turn @ axis)
            return link, place, turn
        assert kind == mj.mjtJoint.mjJNT_HINGE, "ball joints are not supported"
        anchor = model.jnt_pos[joint]
        self.parent.append(link)
        self.depth.append(self.depth[link] + 1)
        self.offset.append(place + turn @ anchor)
        self.turn.append(turn)
        self.axis.append(axis)
        self.mass.append(0.0)
        self.moment.append(np.zeros(3))
        return len(self.mass) - 1, -anchor, np.eye(3)


def _matrix(quaternion: np.ndarray) -> np.ndarray:
    return rotation(torch.as_tensor(np.array(quaternion))[None])[0].numpy()


def _descendants(parents: list[int]) -> np.ndarray:
    """Returns which links each hinge moves, including its own, [hinges, links] of 0 and 1.

    Args:
        parents: The parent link of each hinge: 0 for the base, i + 1 for hinge i. Parents come
            before their children.
    """
    below = np.eye(len(parents), len(parents) + 1, 1)
    for hinge in reversed(range(len(parents))):
        if parents[hinge]:
            below[parents[hinge] - 1] += below[hinge]
    return below


def _tensor(values: np.ndarray, like: Tensor) -> Tensor:
    return torch.as_tensor(np.array(values, np.float64)).to(like)
