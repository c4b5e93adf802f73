"""A ROS 2 node that runs an exported policy and adapts it in the background.

Untested: no ROS 2 was at hand. It shows where an adaptation goes in a node: read it against your
robot's messages, limits and safety before use.

    metarl export RUN exported --to onnx --with adaptation
    python adaptive_policy_node.py --ros-args -p folder:=exported -p adapt_every:=5

Subscriptions: `observation` (Float32MultiArray, O numbers in the units of training), `reward`
(Float32, of the action before), `episode_end` (Bool, True where the episode terminated, False where
it was cut off). Publication: `action` (Float32MultiArray). `adapt_without_torch.py` must be on
Python's path.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import rclpy
from adapt_without_torch import Adaptation
from rclpy.node import Node
from std_msgs.msg import Bool, Float32, Float32MultiArray


class AdaptivePolicy(Node):
    """Acts on observations; after every few episodes takes an adaptation step."""

    def __init__(self):
        super().__init__("adaptive_policy")
        folder = self.declare_parameter("folder", "exported").value
        self.adapt_every = self.declare_parameter("adapt_every", 5).value
        self.policy, self.learner = Adaptation(Path(folder)), Adaptation(Path(folder))
        action = self.policy.metadata["action"]
        self.low, self.high = (  # null: without a bound
            np.array([none if v is None else v for v in action[k]], np.float32)
            for k, none in (("low", -np.inf), ("high", np.inf))
        )
        self.horizon = self.policy.metadata["graphs"]["step"]["inputs"][-3]["shape"][1]
        self.generator = np.random.default_rng()
        self.worker, self.pending = ThreadPoolExecutor(1), None
        self.episodes, self.steps, self.reward = [], [], 0.0
        self.publisher = self.create_publisher(Float32MultiArray, "action", 1)
        self.create_subscription(Float32MultiArray, "observation", self.observed, 1)
        self.create_subscription(Float32, "reward", self.rewarded, 10)
        self.create_subscription(Bool, "episode_end", self.ended, 10)

    def observed(self, message):
        """Publishes the action for an observation."""
        if self.pending is not None and self.pending.done():  # swap between two actions
            self.pending.result()
            if all(np.isfinite(v).all() for v in self.learner.values.values()):
                self.policy.values = dict(self.learner.values)
            else:  # the step diverged: the old policy acts
                self.learner.values = dict(self.policy.values)
            self.pending, self.episodes, self.steps = None, [], []  # a step needs its own policy's
        observation = np.array(message.data, np.float32)
        if not np.isfinite(observation).all() or len(self.steps) >= self.horizon:
            return  # the robot's own watchdog must stop it when no action comes
        noise = self.generator.standard_normal((1, len(self.low)), np.float32)
        found = self.policy.run("act", observations=observation[None], noise=noise)
        self.steps.append([observation, found["sample"][0], 0.0])
        action = np.clip(found["sample"][0], self.low, self.high)
        self.publisher.publish(Float32MultiArray(data=action.tolist()))

    def rewarded(self, message):
        """Stores the reward of the last action."""
        if self.steps:
            self.steps[-1][2] = message.data

    def ended(self, message):
        """Stores an episode, and starts an adaptation step after every few."""
        if self.steps:
            self.episodes.append((self.steps, message.data))
            self.steps = []
        if len(self.episodes) >= self.adapt_every and self.pending is None:
            batch, self.episodes = self.batch(), []
            self.pending = self.worker.submit(lambda: self.learner.run("step", **batch))

    def batch(self):
        """Returns the stored episodes as the inputs of a step."""
        count, size = len(self.episodes), len(self.episodes[0][0][0][0])
        observations = np.zeros((count, self.horizon + 1, size), np.float32)
        actions = np.zeros((count, self.horizon, len(self.low)), np.float32)
        rewards = np.zeros((count, self.horizon), np.float32)
        for n, (steps, _) in enumerate(self.episodes):
            for t, (observation, action, reward) in enumerate(steps):
                observations[n, t], actions[n, t], rewards[n, t] = observation, action, reward
            # The last observation before the end stands for the one after it.
            observations[n, len(steps)] = observations[n, len(steps) - 1]
        lengths = np.array([len(steps) for steps, _ in self.episodes], np.int64)
        terminated = np.array([terminated for _, terminated in self.episodes], bool)
        names = ("observations", "actions", "rewards", "lengths", "terminated")
        values = (observations, actions, rewards, lengths, terminated)
        return dict(zip(names, values, strict=True))


if __name__ == "__main__":
    rclpy.init()
    rclpy.spin(AdaptivePolicy())
