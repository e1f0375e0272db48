"""Curves: which metrics share a chart, what a noisy curve is smoothed to, and pictures that belong into a page."""

import re

import numpy as np
import pytest

from t5x_like.telemetry.charts import MAIN, STEPS_BOX, charts, compact, is_noisy, smooth


def records(count=100, **functions):
    """Lines of a run; names spell `/` as `__`."""
    return [
        {"step": 10 * i} | {name.replace("__", "/"): function(i) for name, function in functions.items()}
        for i in range(1, count + 1)
    ]


def test_what_measures_the_same_shares_a_chart_and_a_prefix_has_one_colour():
    lines = records(train__loss=lambda i: 9 / i, train__accuracy=lambda i: i / 100, memory__host_peak_bytes=lambda i: i)
    lines += records(5, validation__loss=lambda i: 9 / i, validation__bits_per_byte=lambda i: 3 / i)
    main, more = charts(lines, 1000)
    assert [chart.key for chart in main] == ["loss", "bits_per_byte"]
    assert [chart.key for chart in more] == ["accuracy", "host_peak_bytes"]
    assert [(s.label, s.colour) for s in main[0].series] == [("training", 0), ("validation", 1)]
    assert [(s.label, s.colour) for s in main[1].series] == [("validation", 1)]
    assert [(s.label, s.colour) for s in more[1].series] == [("memory", 2)]


def test_main_charts_come_in_the_order_of_the_table():
    lines = records(**{f"train__{key}": float for key in reversed(MAIN)})
    assert [chart.key for chart in charts(lines, 1000)[0]] == list(MAIN)


def test_values_are_shown_in_the_charts_unit():
    lines = records(train__data_wait_share=lambda i: 0.25, memory__device_peak_bytes=lambda i: 3 * 2**30)
    (wait,), (memory,) = charts(lines, 1000)
    assert (wait.series[0].last, wait.quantity.unit) == ("25", "% of training time")
    assert (memory.series[0].last, memory.quantity.title, memory.quantity.unit) == ("3", "Device peak", "GiB")


def test_what_was_not_finite_is_left_out_and_a_repeated_step_counts_once():
    lines = [{"step": 1, "train/loss": None}, {"step": 2, "train/loss": 3.0}, {"step": 2, "train/loss": 2.0}]
    (loss,), _ = charts([*lines, {"step": 3, "train/loss": None, "train/gradient_norm": None, "note": "x"}], 3)
    assert loss.series[0].steps.tolist() == [2] and loss.series[0].values.tolist() == [2.0]


def test_no_metrics_no_charts():
    assert charts([], 1) == ([], [])


@pytest.mark.parametrize("count", [1, 2, 30, 200, 5000])
@pytest.mark.parametrize("function", [lambda i: 0.0, lambda i: -2.0, lambda i: 1e-9 * i, lambda i: (-1) ** i * 1e6])
def test_any_curve_becomes_a_picture(count, function):
    (chart,), _ = charts(records(count, train__loss=function), 10 * count)
    assert chart.svg.startswith("<svg") and chart.svg.count("<path") > 2 and "nan" not in chart.svg
    assert len(chart.svg) < 150_000


def test_a_picture_takes_its_colours_and_fonts_from_the_page():
    lines = records(train__loss=lambda i: 9 / i, validation__loss=lambda i: 9.5 / i)
    svg = charts(lines, 1000)[0][0].svg
    assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) <= {"#000000"}, "black is what ticks of no length are drawn with"
    assert {"var(--series-0)", "var(--series-1)", "var(--chart-text)", "var(--chart-grid)"} <= set(
        re.findall(r"var\([^)]*\)", svg)
    )
    assert not re.search(r"http|xmlns|xlink|font-family|<style|<metadata| width=\"\d+pt", svg)
    assert re.search(r"viewBox=\"0 0 [\d.]+ [\d.]+\"", svg) and ">step</text>" in svg


def test_pictures_on_one_page_have_names_of_their_own_and_are_the_same_every_time():
    lines = records(train__loss=lambda i: 9 / i, train__gradient_norm=lambda i: 9 / i)
    svgs = [chart.svg for chart in charts(lines, 1000)[0]]
    names = [set(re.findall(r'\bid="([^"]*)"', svg)) for svg in svgs]
    assert names[0] and not names[0] & names[1]
    for svg, own in zip(svgs, names, strict=True):
        assert set(re.findall(r"url\(#([^)]*)\)", svg)) | set(re.findall(r'href="#([^"]*)"', svg)) <= own
    assert svgs == [chart.svg for chart in charts(lines, 1000)[0]]


def test_the_steps_box_is_where_the_first_and_the_last_step_are_drawn():
    svg = charts(records(5, train__loss=float), 50)[0][0].svg
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', svg)[1])
    drawn = [float(x) for x in re.findall(r'<use href="#[^"]*" x="([\d.]+)"[^>]*var\(--series-0\)', svg)]
    share = [(x / width - STEPS_BOX[0]) / STEPS_BOX[1] for x in drawn]
    assert share == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0], abs=1e-4)


def test_first_losses_do_not_flatten_the_rest_and_the_page_says_so():
    (chart,), _ = charts(records(train__loss=lambda i: 900.0 if i == 1 else 3 - i / 100), 1000)
    assert chart.note == "up to 900 beyond the top"
    (chart,), _ = charts(records(train__loss=lambda i: 3 - i / 100), 1000)
    assert chart.note == ""


def test_smoothing_keeps_the_level_and_forgets_a_spike():
    random = np.random.default_rng(0)
    level = np.linspace(4, 3, 400)
    noisy = level + random.normal(0, 0.1, 400)
    noisy[200] = 50.0
    smoothed = smooth(noisy)
    assert smoothed.shape == (400,)
    assert np.abs(smoothed - level).max() < 0.12
    assert np.abs(smoothed - level).mean() < np.abs(noisy - level).mean() / 2


def test_a_loss_is_noisy_and_a_schedule_is_not():
    steps = np.arange(200)
    assert is_noisy(3 - steps / 200 + np.random.default_rng(0).normal(0, 0.05, 200))
    assert not is_noisy(np.minimum(steps / 20, 1 - steps / 400))
    assert not is_noisy(np.ones(1))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0031, "0.0031"),
        (1.5e-5, "1.5e-5"),
        (2.5678, "2.57"),
        (842.0, "842"),
        (-4821.4, "-4821"),
        (12345, "12.3k"),
        (1474560, "1.47M"),
        (1.24e9, "1.24G"),
        (9.89e14, "989T"),
    ],
)
def test_compact(value, text):
    assert compact(value) == text


def test_axis_labels_differ_on_a_narrow_range():
    svg = charts(records(train__fill=lambda i: 0.9995 + 1e-6 * i), 1000)[1][0].svg
    labels = re.findall(r">([\d.]+)</text>", svg)
    assert len(labels) > 6 and len(labels) == len(set(labels))
