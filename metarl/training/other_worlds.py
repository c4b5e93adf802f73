"""Whether the worlds of control runs differ, from each other or from those of today."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import metarl
from metarl.adaptation.learner import Learner
from metarl.errors import CheckpointError, short_repr
from metarl.training.learner_file import described_learner, read_learner_file


def warn_of_other_worlds(checkpoint: Path, learner: Learner) -> None:
    """Warns if the tasks of a learner are no longer those of the run whose checkpoint it opens.

    Args:
        checkpoint: A checkpoint in a run folder; those without a readable learner.json say nothing.
        learner: The learner that was built to open it.
    """
    try:
        content = read_learner_file(checkpoint.parent.parent)
        trained = {} if content is None else content["learner"]
        found = json.loads(json.dumps(described_learner(learner)))
        # another version may word its cards differently
        facts = content is not None and content["metarl"] == metarl.__version__
        before, now = (_worlds_of(one, facts) for one in (trained, found))
    except (CheckpointError, KeyError, TypeError, AttributeError):
        return
    changes = [
        f"{name}, {short_repr(now[name], 200)} (in training {short_repr(old, 200)})"
        if not isinstance(old, dict)
        else name
        for name, old in before.items()
        if name in now and now[name] != old
    ]
    if changes:
        warnings.warn(
            f"The tasks of {checkpoint.parent.parent} have changed since it was trained: other "
            f"{'; other '.join(changes)}. What follows is of the tasks as they are now.",
            RuntimeWarning,
            stacklevel=2,
        )


def world_differences(folders: Sequence[Path]) -> dict[str, list[Any]]:
    """Returns what differs between the worlds of control runs: name -> the value of each run.

    Args:
        folders: Run folders; without a readable learner.json of one, nothing is known to differ.
    """
    found = []
    for folder in folders:
        try:
            content = read_learner_file(folder)
            learner = {} if content is None else content["learner"]
            family = {"family": learner["family"]["name"]}
            found.append({**family, **_worlds_of(learner, facts=False)})
        except (CheckpointError, KeyError, TypeError):
            return {}
    values = {name: [one[name] for one in found] for name in (found[0] if found else {})}
    return {name: rows for name, rows in values.items() if any(row != rows[0] for row in rows)}


def _worlds_of(described: dict[str, Any], facts: bool) -> dict[str, Any]:
    """Returns what the worlds of a described control learner are, by name; nothing for others.

    Args:
        described: The learner as JSON data.
        facts: Whether the facts of the family's card are among them.
    """
    if "family" not in described:
        return {}
    family = described["family"]
    numbers = {
        "horizon": family["horizon"],
        "seconds of a step": family["step_seconds"],
        "space of observations": described["observation_space"],
        "space of actions": described["action_space"],
    }
    return family.get("facts", {}) | numbers if facts else numbers
