"""The curves of a run as inline SVG, drawn with Matplotlib and coloured by the page that shows them.

Matplotlib lays out, the page styles: text keeps no font and every colour is a CSS variable, so that a curve follows
the reader's light or dark mode.
"""

import dataclasses
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import Formatter, MaxNLocator

# Inches at 72 points: the page shows a chart about a third larger, which makes its text the size of the page's.
_SIZE = (5.8, 2.75)
# The plot's box in the picture: left, bottom, width, height. All charts have the same, so that their steps line up.
_BOX = (0.098, 0.165, 0.885, 0.795)
# Room before the first and after the last step, as a share of the steps, so that a marker there is seen whole.
_ROOM = 0.012
# Where the first step is in the picture's width, and how much of the width the steps take.
STEPS_BOX = (_BOX[0] + _BOX[2] * _ROOM / (1 + 2 * _ROOM), _BOX[2] / (1 + 2 * _ROOM))
_SERIES_COLOURS = 6
# Stand-ins that Matplotlib writes out, and what the page puts in their place.
_COLOURS: Mapping[str, str] = MappingProxyType(
    {"#0a0a01": "var(--chart-text)", "#0a0a02": "var(--chart-grid)"}
    | {f"#0b0b{i:02x}": f"var(--series-{i})" for i in range(_SERIES_COLOURS)}
)
_TEXT, _GRID = list(_COLOURS)[:2]
# Curves of more points than this are drawn as the range they move in, and all are smoothed from `_SMOOTHED` points on.
_DRAWN = 1200
_SMOOTHED = 40


@dataclasses.dataclass(frozen=True)
class Quantity:
    """The quantity that a metric measures, known by the last part of its name.

    Attributes:
      title: the chart's heading.
      unit: what its numbers count.
      scale: what a metric's value is multiplied by to be in that unit.
      from_zero: whether the axis starts at zero.
      reach: where the axis ends at the earliest, so that next to nothing looks like it.
    """

    title: str
    unit: str = ""
    scale: float = 1.0
    from_zero: bool = False
    reach: float = -math.inf


# The curves every report begins with, in this order.
MAIN: Mapping[str, Quantity] = MappingProxyType(
    {
        "loss": Quantity("Loss", "nats per token"),
        "bits_per_byte": Quantity("Bits per byte", "bits per byte of text"),
        "learning_rate": Quantity("Learning rate", from_zero=True),
        "gradient_norm": Quantity("Gradient norm", "L2 over all parameters", from_zero=True),
        "tokens_per_second": Quantity("Throughput", "tokens per second", from_zero=True),
        "data_wait_share": Quantity("Waiting for data", "% of training time", scale=100.0, from_zero=True, reach=5.0),
    }
)


@dataclasses.dataclass(frozen=True)
class Series:
    """One metric over the run.

    Attributes:
      name: the metric's full name.
      label: what tells it from the other series of its chart.
      colour: which of the page's colours it has; the same label has the same one in every chart.
      steps: [points] int.
      values: [points] float, in the chart's unit, all finite.
    """

    name: str
    label: str
    colour: int
    steps: np.ndarray
    values: np.ndarray

    @property
    def last(self) -> str:
        """The latest value as text."""
        return compact(float(self.values[-1]), digits=4)


@dataclasses.dataclass(frozen=True)
class Chart:
    """A chart of all metrics of one quantity.

    Attributes:
      key: the last part of its metrics' names; unique in a report.
      quantity: what is measured.
      series: what is drawn.
      svg: the picture, an `<svg>` element for a page that defines its colours.
      note: what the picture leaves out; empty when it leaves out nothing.
    """

    key: str
    quantity: Quantity
    series: Sequence[Series]
    svg: str
    note: str


def charts(records: Iterable[Mapping[str, Any]], last_step: int) -> tuple[list[Chart], list[Chart]]:
    """Draws every metric of a run.

    Args:
      records: the lines of `metrics.jsonl`.
      last_step: where every chart ends, at least 1.

    Returns:
      The charts of `MAIN` there is anything for, and those of all other metrics by name.
    """
    grouped: dict[str, list[Series]] = {}
    for series in _all_series(records):
        grouped.setdefault(_quantity_key(series.name), []).append(series)
    drawn = {key: _chart(key, group, last_step) for key, group in grouped.items()}
    main = [drawn[key] for key in MAIN if key in drawn]
    return main, [drawn[key] for key in sorted(drawn) if key not in MAIN]


def compact(value: float, digits: int = 3) -> str:
    """A number in few characters, with so many significant digits: `0.0031`, `2.57`, `842`, `1.47M`."""
    magnitude = abs(value)
    for limit, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if magnitude >= limit:
            return f"{value / (1e3 if suffix == 'k' else limit):.{digits}g}{suffix}"
    if magnitude >= 1000:
        return f"{value:.0f}"
    if 0 < magnitude < 1e-3:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.{digits}g}"


def smooth(values: np.ndarray) -> np.ndarray:
    """A smoothed curve: a moving median, so that one spike leaves no trace, then a moving average.

    Args:
      values: [points] float.

    Returns:
      [points] float.
    """
    half = max(2, len(values) // 80)
    padded = np.pad(values, half, mode="reflect")
    medians = np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1), axis=1)
    # Weights that fall off to both sides; at the ends of the curve those that are left count for all.
    kernel = np.minimum(np.arange(1, 2 * half + 2), np.arange(2 * half + 1, 0, -1)).astype(float)
    weight = np.convolve(np.ones(len(values)), kernel, mode="same")
    return np.convolve(medians, kernel, mode="same") / weight


def is_noisy(values: np.ndarray) -> bool:
    """Whether a curve keeps changing direction, as a loss does and a learning rate does not."""
    changes = np.diff(values)
    return len(changes) > 1 and float(np.mean(changes[1:] * changes[:-1] < 0)) > 0.2


def _all_series(records: Iterable[Mapping[str, Any]]) -> list[Series]:
    """Every metric that has at least one finite value."""
    points: dict[str, dict[int, float]] = {}
    for record in records:
        for name, value in record.items():
            if name != "step" and isinstance(value, int | float) and not isinstance(value, bool):
                points.setdefault(name, {})[record["step"]] = value
    # Training has the first colour, then comes what else the main charts show.
    main = {series_label(name) for name in points if _quantity_key(name) in MAIN}
    labels = sorted(set(map(series_label, points)), key=lambda label: (label != "training", label not in main, label))
    colours = {label: position for position, label in enumerate(labels)}
    found = []
    for name, by_step in points.items():
        steps = np.array(sorted(by_step))
        values = np.array([by_step[step] for step in steps], float) * quantity(_quantity_key(name)).scale
        found.append(Series(name, series_label(name), colours[series_label(name)] % _SERIES_COLOURS, steps, values))
    return sorted(found, key=lambda series: (series.colour, series.name))


def series_label(name: str) -> str:
    """The label of a metric among those of its quantity: its prefix, in words."""
    prefix = name.rpartition("/")[0]
    return {"train": "training", "": name}.get(prefix, prefix)


def _quantity_key(name: str) -> str:
    return name.rpartition("/")[2]


def quantity(key: str) -> Quantity:
    """The quantity of a metric: from `MAIN`, or from the last part of its name."""
    if key in MAIN:
        return MAIN[key]
    for suffix, unit, scale in (("_bytes", "GiB", 2.0**-30), ("_share", "%", 100.0), ("_seconds", "seconds", 1.0)):
        if key.endswith(suffix):
            return Quantity(_words(key.removesuffix(suffix)), unit, scale, from_zero=True)
    return Quantity(_words(key))


def _words(key: str) -> str:
    words = key.replace("_", " ")
    return words[:1].upper() + words[1:]


def _chart(key: str, series: Sequence[Series], last_step: int) -> Chart:
    measured = quantity(key)
    # The salt makes the names inside the picture the same every time, and different from the other pictures'.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": key, "path.simplify_threshold": 0.3}):
        figure = Figure(figsize=_SIZE)
        axes = figure.add_axes(_BOX)
        for one in series:
            _draw(axes, one, f"#0b0b{one.colour:02x}")
        low, high, note = _limits(series, measured)
        axes.set_ylim(low, high)
        axes.set_xlim(-_ROOM * last_step, (1 + _ROOM) * last_step)
        _style(axes)
        return Chart(key, measured, series, _svg(figure, key), note)


def _draw(axes: Any, series: Series, colour: str) -> None:
    steps, values = series.steps, series.values
    if len(values) < _SMOOTHED:
        axes.plot(steps, values, color=colour, linewidth=1.8, marker="o", markersize=3.4)
    elif len(values) > _DRAWN:
        bins = np.array_split(np.arange(len(values)), _DRAWN // 2)
        middles = np.array([steps[b[len(b) // 2]] for b in bins])
        lows, highs = (np.array([extreme(values[b]) for b in bins]) for extreme in (np.min, np.max))
        axes.fill_between(middles, lows, highs, color=colour, alpha=0.22, linewidth=0)
        average = smooth(values) if is_noisy(values) else values
        axes.plot(middles, [average[b].mean() for b in bins], color=colour, linewidth=1.8)
    elif is_noisy(values):
        axes.plot(steps, values, color=colour, linewidth=1.0, alpha=0.32)
        axes.plot(steps, smooth(values), color=colour, linewidth=1.8)
    else:
        axes.plot(steps, values, color=colour, linewidth=1.8)


def _limits(series: Sequence[Series], measured: Quantity) -> tuple[float, float, str]:
    """The axis's ends, and a note when rare high values, such as the first losses, would flatten everything else."""
    values = np.concatenate([one.values for one in series])
    low, high, usual = float(values.min()), float(values.max()), float(np.percentile(values, 93))
    low = min(low, 0.0) if measured.from_zero else low
    note = ""
    if len(values) >= 20 and high - low > 1.35 * (usual - low) > 0:
        top = max(usual + 0.12 * (usual - low), measured.reach)
        note, high = (f"up to {compact(high)} beyond the top", top) if top < high else ("", high)
    high = max(high, measured.reach)
    if high <= low:  # a constant
        span = abs(low) or 1.0
        return low - (0.0 if measured.from_zero else 0.1 * span), high + 0.1 * span, note
    margin = 0.06 * (high - low)
    return (0.0 if measured.from_zero and low == 0 else low - margin), high + margin, note


class _CompactFormatter(Formatter):
    """Labels in few characters, with as many digits as it takes to tell them apart."""

    def __call__(self, value: float, position: int | None = None) -> str:
        return compact(value)

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        for digits in range(3, 16):
            labels = [compact(value, digits) for value in values]
            if len(set(labels)) == len(labels):
                break
        return labels


def _style(axes: Any) -> None:
    axes.set_facecolor("none")
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_GRID)
    axes.tick_params(colors=_TEXT, labelsize=8.6, length=0, pad=5)
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(_CompactFormatter())
    axes.set_xlabel("step", color=_TEXT, fontsize=8.6, labelpad=2)


def _svg(figure: Figure, key: str) -> str:
    """The figure as an element to put into a page: no prologue, namespaces, fonts or size, and names of its own."""
    text = io.StringIO()
    figure.patch.set_visible(False)
    FigureCanvasSVG(figure).print_svg(text, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # it would apply to the whole page
    svg = re.sub(r'\s(xmlns(:\w+)?|width|height|version)="[^"]*"(?=[^<]*viewBox|[^<]*>\s*<defs>)', "", svg, count=5)
    svg = re.sub(r" font-family:[^;\"]*;", "", svg)
    svg = svg.replace("xlink:href", "href")
    prefix = re.sub(r"[^a-z0-9]", "-", key.lower())
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    for stand_in, variable in _COLOURS.items():
        svg = svg.replace(stand_in, variable)
    return svg
