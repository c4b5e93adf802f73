"""Run folders with curves, without a training."""

import json

import torch

from metarl.evaluation.curves import AdaptationCurve
from metarl.runs.logger import RunLogger


def make_run(root, name, offset=0.0, splits=("test",), metric="mse", steps=None):
    """Writes two validation curves and those of `splits`, whose means are 3, 2 and .5."""
    folder = root / name
    values = torch.tensor([[4.0, 2.0], [1.0, 3.0], [0.5, 0.5]]) + offset
    with RunLogger(folder) as logger:
        for iteration in (10, 20):
            curve = AdaptationCurve(metric, values / iteration, False)
            logger.curve(
                curve, iteration, "eval_validation",
                environment_steps=None if steps is None else steps * iteration,
            )  # fmt: skip
        for split in splits:
            logger.curve(AdaptationCurve(metric, values, False), 20, f"eval_{split}")
    return folder


def seeded_run(root, name, seed, offset, rate=0.1, **training):
    """Writes a run with settings."""
    folder = make_run(root, name, offset)
    settings = {"training": {"seed": seed, **training}, "learner": {"inner_lr": rate}, "runs": name}
    (folder / "config.json").write_text(json.dumps(settings))
    return folder
