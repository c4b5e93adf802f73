import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex

from metarl.commands.compare import compare
from metarl.commands.play import play
from metarl.errors import CheckpointError, SettingsError, ShapeError
from metarl.evaluation.statistics import Summary
from metarl.plots.comparison import comparison_figure
from metarl.plots.figures import (
    COLOURS,
    SinePanel,
    adaptation_figure,
    figure_pixels,
    save_figure,
    sine_figure,
)


def summary(value):
    return Summary(value, 0.9 * value, 1.2 * value, value, value / 2, value / 4, value, 10)


@pytest.fixture
def curves():
    return {"K=5": [summary(v) for v in (3.0, 0.7, 0.4)], "K=10": [summary(v) for v in (3.0, 0.2)]}


@pytest.fixture
def panel():
    x = np.linspace(-5, 5, 50)
    predictions = {0: 0 * x, 1: 0.5 * np.sin(x), 10: 0.9 * np.sin(x)}
    return SinePanel(x, np.sin(x), x[::10], np.sin(x[::10]), predictions, "amplitude 1.0")


def overlap(box, axes):
    other = axes.get_tightbbox()
    assert other is not None
    return box.overlaps(other)


def legend_texts(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_curves_bands_and_published_points_are_drawn(curves):
    figure = adaptation_figure(curves, "mse", published={"K=5": {1: 0.67, 2: 0.35}}, title="MAML")
    (axes,) = figure.axes
    first, second, points = axes.get_lines()
    assert np.asarray(first.get_ydata()).tolist() == [3.0, 0.7, 0.4]
    assert np.asarray(second.get_xdata()).tolist() == [0, 1]
    assert np.asarray(points.get_xydata()).tolist() == [[1, 0.67], [2, 0.35]]
    assert points.get_markeredgecolor() == to_hex(COLOURS[0]).upper()
    band = np.asarray(axes.collections[0].get_paths()[0].vertices)
    assert [1.0, 0.9 * 0.7] in band.tolist()
    assert [1.0, 1.2 * 0.7] in band.tolist()
    assert legend_texts(figure) == ["K=5", "K=10", "95 % CI", "published"]
    assert axes.get_title(loc="left") == "MAML"


def test_published_points_without_a_curve_are_named(curves):
    figure = adaptation_figure(curves, "mse", published={"MAML": {1: 0.67}})
    assert legend_texts(figure) == ["K=5", "K=10", "95 % CI", "published: MAML"]


def test_the_axis_fits_the_metric(curves):
    assert adaptation_figure(curves, "mse").axes[0].get_yscale() == "log"
    flat = {"a": [summary(1.0), summary(0.9)]}
    assert adaptation_figure(flat, "mse").axes[0].get_yscale() == "linear"
    axes = adaptation_figure({"a": [summary(0.2), summary(0.9)]}, "accuracy").axes[0]
    assert axes.yaxis.get_major_formatter()(0.5) == "50%"
    assert axes.get_ylabel() == "Accuracy"
    assert adaptation_figure(flat, "entropy").axes[0].get_ylabel() == "entropy"


def test_the_iqm_can_be_drawn(curves):
    (axes,) = adaptation_figure(curves, "mse", statistic="iqm").axes
    assert np.asarray(axes.get_lines()[0].get_ydata()).tolist() == [1.5, 0.35, 0.2]
    assert "interquartile" in axes.get_ylabel()


def test_one_curve_needs_no_legend(curves):
    assert legend_texts(adaptation_figure({"test": curves["K=5"]}, "mse")) == []


def test_values_that_are_not_finite_can_be_drawn():
    steps = [summary(1.0), summary(float("nan")), summary(float("inf"))]
    assert figure_pixels(adaptation_figure({"a": steps}, "mse")).std() > 0


def test_a_label_without_published_values_is_not_in_the_legend(curves):
    (legend,) = adaptation_figure(curves, "mse", published={"K=5": {}}).legends
    assert [text.get_text() for text in legend.get_texts()] == ["K=5", "K=10", "95 % CI"]
    alone = {"K=5": curves["K=5"]}
    assert not adaptation_figure(alone, "mse", published={"K=5": {}}).legends


@pytest.mark.parametrize("compared", [False, True])
@pytest.mark.parametrize("step", [0, 5])  # of a learner without steps; after the last one only
def test_the_interval_of_a_single_point_is_visible(compared, step):
    figure = (
        comparison_figure({}, {"maml": {step: summary(0.5)}}, "accuracy")
        if compared
        else adaptation_figure({"maml": [summary(0.5)]}, "accuracy", first_step=step)
    )
    (bars,) = (c for c in figure.axes[0].collections if isinstance(c, LineCollection))
    (bar,) = bars.get_segments()
    np.testing.assert_allclose(bar, [[step, 0.45], [step, 0.6]])
    assert list(figure.axes[0].get_xticks()) == [step]


def test_the_ticks_of_accuracies_have_the_digits_that_they_need():
    close = [replace(summary(0.91), mean_low=0.905, mean_high=0.915)]
    for summaries, expected in ((close, "90.4%"), ([summary(0.2), summary(0.9)], "20%")):
        axes = adaptation_figure({"a": summaries}, "accuracy").axes[0]
        labels = [axes.yaxis.get_major_formatter()(tick) for tick in axes.get_yticks()]
        assert expected in labels and len(set(labels)) == len(labels)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7])
def test_sine_panels_are_drawn_without_overlap(panel, count):
    figure = sine_figure([panel] * count, title="MAML")
    figure_pixels(figure)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert len(shown) == count
    assert [line.get_label() for line in shown[0].get_lines()] == [
        "truth", "before", "after 1 step", "after 10 steps", "support points",
    ]  # fmt: skip
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert not any(overlap(box, axes) for axes in shown)
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width


def test_the_legend_of_curves_lies_beside_the_axes(curves):
    figure = adaptation_figure({"a rather long name of a curve": curves["K=5"], **curves}, "mse")
    figure_pixels(figure)
    box = figure.legends[0].get_window_extent()
    assert not overlap(box, figure.axes[0])
    assert box.x1 <= figure.bbox.width


def test_a_saved_figure_appears_whole_or_not_at_all(curves, tmp_path):
    figure = adaptation_figure(curves, "mse")
    for name, start in (("a.png", b"\x89PNG"), ("a.pdf", b"%PDF"), ("deep/a.svg", b"<?xml")):
        save_figure(figure, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)
    before = (tmp_path / "a.png").read_bytes()
    figure.axes[0].set_title("$\\broken{$")
    with pytest.raises(ValueError, match="broken"):
        save_figure(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pdf", "a.png", "deep"]


def test_a_place_that_cannot_be_written_is_reported(curves, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="Cannot write the figure"):
        save_figure(adaptation_figure(curves, "mse"), tmp_path / "file" / "a.png")


def test_bad_input_is_refused(panel):
    with pytest.raises(SettingsError, match="at least one curve"):
        adaptation_figure({}, "mse")
    with pytest.raises(SettingsError, match="at least one curve"):
        adaptation_figure({"a": []}, "mse")
    with pytest.raises(SettingsError, match="at least one panel"):
        sine_figure([])
    with pytest.raises(ShapeError, match="prediction after 3"):
        sine_figure([replace(panel, predictions={3: np.zeros(4)})])
    with pytest.raises(ShapeError, match="as many support inputs"):
        sine_figure([replace(panel, support_inputs=np.zeros(2))])


def test_figures_leave_pyplot_alone():
    code = "import sys, metarl.plots.figures; assert 'matplotlib.pyplot' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_figures_of_unknown_formats_are_refused_first(curves, tmp_path):
    for name in ("a.xyz", "a.b.doc"):
        with pytest.raises(SettingsError, match=r"to end in \.png, .*, got a\."):
            save_figure(adaptation_figure(curves, "mse"), tmp_path / name)
    for command in (lambda out: compare((tmp_path,), out), lambda out: play(tmp_path, out=out)):
        with pytest.raises(SettingsError, match=r"to end in \.png, .*, got a\.xyz"):
            command(tmp_path / "a.xyz")  # although there is no run
    save_figure(adaptation_figure(curves, "mse"), tmp_path / "A.PNG")
    assert (tmp_path / "A.PNG").read_bytes().startswith(b"\x89PNG")
