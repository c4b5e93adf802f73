"""The table of accuracies by instance."""

import pytest
import torch
from rich.console import Console

from metarl.evaluation.statistics import summarise_curve
from metarl.evaluation.stream_protocol import INSTANCES, PUBLISHED, instance_table


def printed(instances, published):
    values = torch.linspace(0.2, 0.9, instances).unsqueeze(1).repeat(1, 4)
    summaries = summarise_curve(values, torch.Generator().manual_seed(0))
    console = Console(width=100)
    with console.capture() as capture:
        console.print(instance_table(summaries, published, "mann, glyphs"))
    return [line.split() for line in capture.get().splitlines() if line.strip()]


def test_the_instances_of_the_paper_stand_beside_its_numbers():
    rows = printed(10, PUBLISHED["mann"])
    body = [row for row in rows if row[0].isdigit()]
    assert [int(row[0]) for row in body] == list(INSTANCES)
    assert body[1][1:] == ["27.8", "[27.8,", "27.8]", "82.8"]
    assert body[-1][1] == "90.0" and body[-1][-1] == "98.1"
    assert "4 test streams" in " ".join(rows[0])


@pytest.mark.parametrize("instances", [1, 3, 7])
def test_the_last_instance_is_shown_whatever_it_is(instances):
    body = [row for row in printed(instances, {}) if row[0].isdigit()]
    shown = sorted({i for i in INSTANCES if i <= instances} | {instances})
    assert [int(row[0]) for row in body] == shown
    assert all(row[-1].endswith("]") for row in body), "no column of published numbers"
