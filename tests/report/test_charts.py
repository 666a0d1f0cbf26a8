"""Charts: marks inside their plot, few points, and nothing where there is nothing to show."""

import re

from ray_brats.report import charts

from .contents import row, training


def test_marks_lie_inside_their_plot() -> None:
    rows = [row(str(i), "WT", dice=i / 10, hd95_mm=373.13 * i / 10) for i in range(11)]
    rows += [row("v", "WT", reference_ml=volume) for volume in (0.0, 0.001, 2500.0)]
    for plot in (
        charts.distribution(rows, ["WT", "TC"], "hd95_mm", "HD95, mm"),
        charts.distribution(rows, ["WT"], "dice", "Dice"),
        charts.dice_against_volume(rows, "WT"),
        charts.loss_curve(training()),
        charts.loss_curve([{"step": 0, "loss": 0.0}]),
        charts.loss_curve([{"step": 5, "loss": -1.0}, {"step": 6, "loss": 1e9}]),
        charts.validation_curve(training()),
    ):
        xs = [float(x) for x in re.findall(r' (?:cx|x1|x2|x)="([^"]+)"', plot)]
        ys = [float(y) for y in re.findall(r' (?:cy|y1|y2|y)="([^"]+)"', plot)]
        assert 0 <= min(xs) <= max(xs) <= 360
        assert 0 <= min(ys) <= max(ys) <= 250


def test_the_loss_of_a_long_run_is_drawn_with_few_points() -> None:
    lines = [{"step": step, "loss": 2.0} for step in range(100_000)]
    assert len(charts.loss_curve(lines)) < 12_000


def test_plots_without_anything_to_show_are_empty() -> None:
    assert charts.distribution([], ["WT"], "dice", "Dice") == ""
    assert charts.dice_against_volume([row("a", "WT", reference_ml=None)], "WT") == ""
    assert charts.loss_curve([{"event": "checkpoint", "step": 3}]) == ""
    assert charts.validation_curve([{"event": "validation", "step": 3}]) == ""
