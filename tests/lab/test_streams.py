"""Streams of characters: what their settings refuse."""

from dataclasses import replace

import pytest

from metarl.errors import SettingsError
from metarl.lab.streams import StreamSettings, build_streams
from metarl.learners.memory.stream_reader import check_steps
from metarl.tasks.characters import CharacterSettings
from metarl.training import TrainingSettings


@pytest.mark.parametrize("steps", [3, 10])
def test_a_curve_has_fewer_steps_than_classes_have_instances(steps):
    settings = StreamSettings(
        tasks=CharacterSettings(way=2, shots=2, queries=1),
        training=TrainingSettings(eval_every=1, eval_steps=steps),
    )
    message = rf"at most 2 steps: classes come 3 times in these streams, got {steps}\. Lower `eval_"
    with pytest.raises(SettingsError, match=message):
        build_streams(settings)
    never = replace(settings, training=TrainingSettings(eval_every=0, eval_steps=steps))
    assert build_streams(never).validation is not None
    check_steps(2, 3)
