import io
import time

import pytest
from rich.console import Console

from metarl.runs.progress import Progress
from metarl.runs.watching import progress_bar


class Clock:
    """A clock that is set by hand."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        """Returns the time in seconds."""
        return self.now


@pytest.fixture
def clock():
    return Clock()


def plain(width=200):
    return Console(file=io.StringIO(), width=width)


def terminal(width=200):
    return Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)


def text(console):
    return console.file.getvalue()


def test_plain_lines_come_at_intervals(clock):
    console = plain()
    with Progress(1000, "sine", 100, console=console, line_interval=10.0, clock=clock) as progress:
        progress.metrics({"loss": 0.12345})
        for _ in range(320):
            clock.now += 0.125
            progress.advance()
    lines = text(console).splitlines()
    assert len(lines) == 4  # one per 10 s of 40 s; the last one is the end
    assert lines[0] == "sine  180/1000 (18 %)  8 it/s  1:42 left  loss 0.1235"
    assert lines[3] == "sine  420/1000 (42 %)  8 it/s  1:12 left  loss 0.1235"
    assert "\x1b" not in text(console)


def test_fast_rates_are_written_in_full(clock):
    console = plain()
    with Progress(100_000, console=console, line_interval=10.0, clock=clock) as progress:
        clock.now += 2.0
        progress.advance(43_820)
    assert "21910 it/s" in text(console)


def test_nothing_is_drawn_between_two_intervals(clock):
    console = plain()
    with Progress(10, console=console, clock=clock) as progress:
        for _ in range(9):
            progress.advance()
        assert text(console) == ""
    assert text(console).startswith("9/10 (90 %)")


def test_a_terminal_gets_a_bar_with_time_left_and_metrics(clock):
    console = terminal()
    with Progress(100, "sine/maml", console=console, clock=clock) as progress:
        progress.metrics({"meta/loss [a]": 0.5})
        for _ in range(50):
            clock.now += 1
            progress.advance()
        progress.note("checkpoint [saved]")
    last = text(console)
    assert "sine/maml" in last
    assert "50/100" in last
    assert "0:00:50" in last
    assert "1 it/s" in last
    assert "meta/loss [a] 0.5" in last
    assert "checkpoint [saved]" in last
    assert last.count("\x1b[?25l") == last.count("\x1b[?25h") == 1  # the cursor is back


@pytest.mark.parametrize("label", ["sine/maml", "half_cheetah/learned-optimizer"])
@pytest.mark.parametrize("width", [60, 80, 99])
def test_a_narrow_terminal_gets_one_line(width, label, clock):
    console = terminal(width)
    with Progress(20000, label, console=console, clock=clock) as progress:
        progress.metrics({"return/step_1": -111.13})
        for _ in range(7000):
            clock.now += 1 / 500
            progress.advance()
    bars = text(console).rstrip("\n\x1b[?25h").split("\x1b[2K")
    assert len(bars) > 10 and not any("\n" in bar for bar in bars)
    if width == 99 or (width == 80 and label == "sine/maml"):
        assert "7000/20000 500 it/s left 0:00:26 return/step_1 -111.1" in bars[-1]


def test_the_cursor_is_back_after_an_error(clock):
    console = terminal()
    with pytest.raises(KeyboardInterrupt), Progress(10, console=console, clock=clock):
        raise KeyboardInterrupt
    assert "\x1b[?25h" in text(console)


@pytest.mark.parametrize("console", [plain, terminal])
def test_counting_is_cheap(console):
    # 0.2 us here; the bound leaves room for a busy machine and fails for a drawing per call.
    with Progress(20_000, console=console(), bar_interval=60) as progress:
        started = time.perf_counter()
        for _ in range(20_000):
            progress.advance()
        each = (time.perf_counter() - started) / 20_000
    assert each < 10e-6


def test_an_evaluation_counts_its_tasks(capsys):
    with progress_bar("test tasks, K=5", 6) as advance:
        advance(3)
        advance(3)
    assert "Evaluating test tasks, K=5  6/6 (100 %)" in capsys.readouterr().err


def test_the_unit_of_the_rate(clock):
    console = plain()
    with Progress(10, unit="tasks", console=console, clock=clock) as progress:
        clock.now += 2
        progress.advance(10)
    assert "10/10 (100 %)  5 tasks/s" in text(console)
