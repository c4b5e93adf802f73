"""A run with a loss and a metric of the user: its files show the metric's name."""

import json

import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from metarl.adaptation import MAML
from metarl.models import MLP
from metarl.tasks import Sine
from metarl.training import OuterLoop, TrainingSettings


def gaussian(outputs, targets):
    mean, log_variance = outputs.chunk(2, dim=-1)
    return F.gaussian_nll_loss(mean, targets, log_variance.exp(), reduction="none")


def error_of_the_mean(outputs, targets):
    return (outputs[..., :1] - targets).abs()


def test_curves_and_tags_have_the_name_of_the_metric(tmp_path):
    network = MLP((1, 10, 2), torch.Generator().manual_seed(0))
    maml = MAML(network, 0.01, loss=gaussian, metric=error_of_the_mean)
    settings = TrainingSettings(
        iterations=2, meta_batch_size=3, eval_every=2, eval_tasks=3, eval_steps=1, log_every=1,
        device="cpu", threads=1,
    )  # fmt: skip
    loop = OuterLoop(maml, Sine(), settings, tmp_path / "run", validation=Sine())
    loop.run()
    loop.logger.close()
    (line,) = (tmp_path / "run/eval.jsonl").read_text().splitlines()
    assert json.loads(line)["metric"] == "error_of_the_mean"
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert {"train/error_of_the_mean/step_1", "eval_validation/error_of_the_mean/mean"} <= {*tags}
    assert not any("mse" in tag for tag in tags)
