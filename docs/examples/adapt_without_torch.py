"""Adapts an exported policy to a point robot with a hidden goal: NumPy and ONNX Runtime only.

metarl export RUN exported --to onnx --with adaptation    # RUN: a run of navigation2d
python adapt_without_torch.py exported
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime


class Adaptation:
    """Theta and the rule's state of an export, and its graphs."""

    def __init__(self, folder):
        self.metadata = json.loads((folder / "adaptation.json").read_text(encoding="utf-8"))
        assert self.metadata["format"] == "metarl-adaptation" and self.metadata["schema"] == 1
        for name, expected in self.metadata["sha256"].items():
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == expected, name
        graphs = self.metadata["graphs"]
        self.sessions = {n: self.open(folder / graph["file"]) for n, graph in graphs.items()}
        self.start = self.open(folder / "start.onnx")
        self.reset()

    def open(self, path):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def reset(self):
        names = [output.name for output in self.start.get_outputs()]
        self.values = dict(zip(names, self.start.run(None, {}), strict=True))

    def run(self, graph, **batch):
        """Runs a graph; outputs `new.X` replace the values X."""
        session, given = self.sessions[graph], {**self.values, **batch}
        feeds = {i.name: given[i.name] for i in session.get_inputs()}
        names = [output.name for output in session.get_outputs()]
        found = dict(zip(names, session.run(names, feeds), strict=True))
        new = {n.removeprefix("new."): v for n, v in found.items() if n.startswith("new.")}
        self.values.update(new)
        return found


def rollouts(policy, goal, episodes, steps, generator):
    """Runs episodes of the robot side by side; returns the batch of an adaptation step."""
    position, shape = np.zeros((episodes, 2), np.float32), (episodes, 2)
    seen, actions, rewards = [position], [], []
    for _ in range(steps):
        noise = generator.standard_normal(shape, np.float32)
        actions.append(policy.run("act", observations=position, noise=noise)["sample"])
        position = position + 0.1 * np.clip(actions[-1], -1, 1)  # the robot
        rewards.append(-np.linalg.norm(position - goal, axis=1))
        seen.append(position)
    stack = [np.stack(values, 1).astype(np.float32) for values in (seen, actions, rewards)]
    ends = np.full(episodes, steps, np.int64), np.zeros(episodes, bool)
    names = ("observations", "actions", "rewards", "lengths", "terminated")
    return dict(zip(names, (*stack, *ends), strict=True))


if __name__ == "__main__":
    policy, generator = Adaptation(Path(sys.argv[1])), np.random.default_rng(0)
    for step in range(4):
        batch = rollouts(policy, np.array([0.3, -0.2]), 20, 100, generator)
        print(f"after {step} steps: return {batch['rewards'].sum(1).mean():.2f}")
        policy.run("step", **batch)
    assert "torch" not in sys.modules
