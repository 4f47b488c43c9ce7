"""The charts of the page: data in, inline SVG out.

Text stays text, and every colour becomes a variable of the page's style sheet, so that light and dark are both exact.
Charts are drawn as wide as a phone is; words from users' data never enter them, but stand beside them in HTML. The same
data give the same bytes.

What belongs here: how a chart is drawn. What does not: which charts the page has, and what they mean.
"""

import functools
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

WIDTH = 340
CLUSTER_COLOURS = 12

_NAMED = ("ink", "soft", "line", "card", "pinnersage", "single", "pins", "control", "own", "heat", "day", "walks")
_COLOURS = {name: f"#0102{number:02x}" for number, name in enumerate(_NAMED, start=1)}
_COLOURS |= {f"cluster-{number}": f"#0103{number:02x}" for number in range(CLUSTER_COLOURS)}
_VARIABLES = {code: f"var(--{name})" for name, code in _COLOURS.items()}

_FONT, _SMALL = 11.8, 10.5
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "pinnersage",
    "text.parse_math": False,
    "axes.formatter.use_mathtext": False,
    "font.size": _FONT,
    "text.color": _COLOURS["ink"],
    "axes.edgecolor": _COLOURS["line"],
    "axes.labelcolor": _COLOURS["soft"],
    "axes.labelsize": _SMALL,
    "xtick.color": _COLOURS["line"],
    "ytick.color": _COLOURS["line"],
    "xtick.labelcolor": _COLOURS["soft"],
    "ytick.labelcolor": _COLOURS["soft"],
    "xtick.labelsize": _SMALL,
    "ytick.labelsize": _SMALL,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
}

_ROW = 29.0
_MOST_COLUMNS = 50


@dataclass(frozen=True)
class Mark:
    """A row of `dots`."""

    label: str
    value: float
    colour: str = "ink"
    low: float | None = None
    high: float | None = None
    other: float | None = None
    """A second value, drawn hollow: the paper's, or last week's."""
    text: str = ""
    """Stands at the right end of the label's line."""
    strong: bool = False


def _chart(draw: Callable[..., Figure]) -> Callable[..., Markup]:
    """A function that draws, as one that gives SVG.

    The SVG's first two arguments are its name, unique on the page, and what it shows for those who do not see it.
    """

    @functools.wraps(draw)
    def drawn(name: str, label: str, *arguments: object, **options: object) -> Markup:
        with matplotlib.rc_context(_STYLE):
            return _svg(draw(*arguments, **options), name, label)

    return drawn


@_chart
def dots(marks: Sequence[Mark], axis: str, zero: float | None = None, logarithmic: bool = False) -> Figure:
    """A row a mark: its label, below it the value with its interval, and the zero line where there is one."""
    figure, axes = _canvas(_ROW * len(marks) + 44, left=6, right=6, bottom=40, top=4)
    axes.set_ylim(len(marks) * _ROW, 0)
    across = axes.get_yaxis_transform()
    for number, mark in enumerate(marks):
        top, middle = number * _ROW + 9, number * _ROW + 20.5
        colour, weight = _COLOURS[mark.colour], "bold" if mark.strong else "normal"
        axes.text(0, top, mark.label, transform=across, va="center", weight=weight)
        axes.text(1, top, mark.text, transform=across, va="center", ha="right", color=_COLOURS["soft"], size=_SMALL)
        if zero is not None:
            axes.plot([zero, zero], [middle - 4.5, middle + 5], color=_COLOURS["soft"], lw=1)
        if mark.other is not None:
            axes.plot([mark.other, mark.value], [middle] * 2, color=_COLOURS["line"], lw=1.5, zorder=1)
            axes.plot(mark.other, middle, "o", ms=6, mfc=_COLOURS["card"], mec=_COLOURS["soft"], mew=1.2, zorder=2)
        if mark.low is not None and mark.high is not None:
            ends = [mark.low, mark.high]
            axes.plot(ends, [middle] * 2, color=colour, lw=4, alpha=0.35, solid_capstyle="round", zorder=2)
        axes.plot(mark.value, middle, "o", ms=6.5, color=colour, mew=0, zorder=3)
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(_readable))
    axes.margins(x=0.06)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(axis)
    return figure


@_chart
def columns(places: Sequence[float], heights: Sequence[float], x_axis: str, y_axis: str) -> Figure:
    """A bar a number from 1, or a bar for several numbers where they are very many."""
    figure, axes = _canvas(230)
    width = max(1, -(-int(max(places)) // _MOST_COLUMNS))
    starts = (np.asarray(places) - 1) // width * width + 0.5
    sums = [np.asarray(heights)[starts == start].sum() for start in np.unique(starts)]
    axes.bar(np.unique(starts), sums, width=0.88 * width, align="edge", color=_COLOURS["pinnersage"])
    _numeric(axes, x_axis, y_axis)
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    return figure


@_chart
def cloud(series: Sequence[tuple[str, NDArray, NDArray]], x_axis: str, y_axis: str) -> Figure:
    """Points of several colours, and through each colour a line of means of five groups along x."""
    figure, axes = _canvas(250)
    for colour, x, y in series:
        axes.scatter(x, y, s=9, color=_COLOURS[colour], alpha=0.4, linewidths=0)
        if len(x) >= 20:
            groups = np.array_split(np.argsort(x, kind="stable"), 5)
            means = np.array([[x[group].mean(), y[group].mean()] for group in groups])
            axes.plot(*means.T, "-", color=_COLOURS[colour], lw=2)
    _numeric(axes, x_axis, y_axis)
    return figure


@_chart
def curve(x: Sequence[float], y: Sequence[float], x_axis: str, y_axis: str) -> Figure:
    """One line with its points."""
    figure, axes = _canvas(230)
    axes.plot(x, y, "o-", color=_COLOURS["pinnersage"], lw=1.6, ms=4.5, mew=0)
    _numeric(axes, x_axis, y_axis)
    return figure


@_chart
def path(
    x: Sequence[float], y: Sequence[float], names: Sequence[object], x_axis: str, y_axis: str, upright: float | None
) -> Figure:
    """A line through named points, and an upright line to compare them with."""
    figure, axes = _canvas(260)
    if upright is not None:
        axes.axvline(upright, color=_COLOURS["pins"], lw=1.5, dashes=(4, 3))
    axes.plot(x, y, "o-", color=_COLOURS["pinnersage"], lw=1.4, ms=5, mew=0)
    axes.margins(x=0.08, y=0.14)
    last, labelled = axes.transData.transform((x[-1], y[-1])), np.full(2, -np.inf)
    for place, (at_x, at_y, name) in enumerate(zip(x, y, names, strict=True)):
        # Where points crowd, only some have room for their name, the last among them.
        here = axes.transData.transform((at_x, at_y))
        if place < len(x) - 1 and min(np.abs(here - other).max() for other in (labelled, last)) < 14:
            continue
        labelled = here
        axes.annotate(str(name), (at_x, at_y), (0, 7), textcoords="offset points", ha="center", size=_SMALL)
    _numeric(axes, x_axis, y_axis)
    return figure


@_chart
def lines(
    panels: Sequence[tuple[str, str, Sequence[float], Sequence[float], int | None]], level: float | None, y_axis: str
) -> Figure:
    """A small line chart a panel (axis, colour, x, y, place of the chosen point), and a level to hold them against."""
    figure, axes = _canvases(len(panels), 190)
    for panel, (x_axis, colour, x, y, chosen) in zip(axes, panels, strict=True):
        # Values are tried in steps that grow, so that each gets the same room.
        places = np.arange(len(x))
        panel.plot(places, y, "o-", color=_COLOURS[colour], lw=1.6, ms=4, mew=0)
        if chosen is not None:
            panel.plot(places[chosen], y[chosen], "o", ms=10, mfc="none", mec=_COLOURS["ink"], mew=1.4)
        if level is not None:
            panel.axhline(level, color=_COLOURS["pinnersage"], lw=1.2, dashes=(4, 3))
        _numeric(panel, x_axis, y_axis)
        panel.set_xticks(places, [f"{value:g}" for value in x])
        panel.margins(x=0.1, y=0.15)
    for panel in axes[1:]:
        panel.set_ylabel("")
    return figure


@_chart
def surfaces(
    panels: Sequence[tuple[str, Sequence[str], Sequence[str], NDArray, tuple[int, int] | None]],
    x_axis: str,
    y_axis: str,
) -> Figure:
    """A heat map a panel (title, columns, rows, scores, the chosen cell), all on one scale; darker is higher."""
    cell, head, foot, across = 25.0, 24.0, 34.0, min(2, len(panels))
    bands = [panels[start : start + across] for start in range(0, len(panels), across)]
    tall = [cell * max(len(panel[2]) for panel in band) for band in bands]
    height = sum(tall) + (head + foot) * len(bands)
    scores = np.concatenate([panel[3].ravel() for panel in panels])
    low, high = np.nanmin(scores), np.nanmax(scores)
    figure, top = Figure(figsize=(WIDTH / 72, height / 72)), height
    for band, inside in zip(bands, tall, strict=True):
        top -= head + inside
        for place, panel in enumerate(band):
            left, wide = 34 + place * (WIDTH - 34) / across, (WIDTH - 34) / across - 8
            axes = figure.add_axes((left / WIDTH, top / height, wide / WIDTH, inside / height))
            _surface(axes, *panel, low, max(high - low, 1e-9))
            axes.set_xlabel(x_axis)
            axes.set_ylabel(y_axis if place == 0 else "")
            if place:
                axes.set_yticks([])
        top -= foot
    return figure


def _surface(
    axes: Axes,
    title: str,
    wide: Sequence[str],
    tall: Sequence[str],
    scores: NDArray,
    chosen: tuple[int, int] | None,
    low: float,
    spread: float,
) -> None:
    for (row, column), score in np.ndenumerate(scores):
        if np.isnan(score):
            continue
        strength = 0.06 + 0.6 * (score - low) / spread
        axes.add_patch(Rectangle((column, row), 1, 1, fc=_COLOURS["heat"], alpha=strength, lw=0))
        axes.text(column + 0.5, row + 0.5, f"{score:.3f}".lstrip("0"), ha="center", va="center", size=9)
    if chosen is not None:
        axes.add_patch(
            Rectangle((chosen[1], chosen[0]), 1, 1, fc="none", ec=_COLOURS["ink"], lw=2, clip_on=False, zorder=3)
        )
    axes.set(xlim=(0, len(wide)), ylim=(len(tall), 0))
    axes.set_xticks(np.arange(len(wide)) + 0.5, wide)
    axes.set_yticks(np.arange(len(tall)) + 0.5, tall)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(title, size=_SMALL, color=_COLOURS["soft"], pad=5)


@_chart
def projection(points: NDArray, clusters: NDArray, medoids: Sequence[tuple[int, float, float]]) -> Figure:
    """A user's pins on a plane, each in the colour of its cluster (-1: not among the listed), medoids numbered."""
    figure, axes = _canvas(300, left=4, right=4, bottom=4, top=4)
    for cluster in np.unique(clusters):
        own = points[clusters == cluster]
        colour = "control" if cluster < 0 else f"cluster-{cluster % CLUSTER_COLOURS}"
        axes.scatter(*own.T, s=24, color=_COLOURS[colour], alpha=0.35 if cluster < 0 else 0.6, linewidths=0)
    # The most important on top of the others.
    for cluster, x, y in reversed(medoids):
        axes.plot(
            x, y, "o", ms=15, color=_COLOURS[f"cluster-{cluster % CLUSTER_COLOURS}"], mec=_COLOURS["card"], mew=1.5
        )
        axes.text(
            x, y, str(cluster + 1), ha="center", va="center_baseline", size=9, color=_COLOURS["card"], weight="bold"
        )
    axes.margins(0.08)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return figure


def _canvas(
    height: float, left: float = 46, right: float = 8, bottom: float = 42, top: float = 10
) -> tuple[Figure, Axes]:
    """A figure whose units are CSS pixels, with axes inside such margins."""
    figure, [axes] = _canvases(1, height, left, right, bottom, top)
    return figure, axes


def _canvases(
    panels: int, height: float, left: float = 46, right: float = 8, bottom: float = 42, top: float = 10
) -> tuple[Figure, list[Axes]]:
    """As `_canvas`, with axes side by side that share their scale of y."""
    figure = Figure(figsize=(WIDTH / 72, height / 72))
    axes = figure.subplots(1, panels, sharey=panels > 1, squeeze=False)
    figure.subplots_adjust(
        left=left / WIDTH, right=1 - right / WIDTH, bottom=bottom / height, top=1 - top / height, wspace=0.12
    )
    return figure, list(axes[0])


def _numeric(axes: Axes, x_axis: str, y_axis: str) -> None:
    axes.set_xlabel(x_axis)
    axes.set_ylabel(y_axis)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_locator(MaxNLocator(6))
    for one in (axes.xaxis, axes.yaxis):
        one.set_major_formatter(FuncFormatter(_readable))
    axes.grid(axis="y", color=_COLOURS["line"], lw=0.8)
    axes.set_axisbelow(True)


def _readable(value: float, _place: object = None) -> str:
    size = abs(value)
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= unit:
            return f"{value / unit:g}{letter}".replace("-", "−")
    return f"{value:.6g}".replace("-", "−")


def _svg(figure: Figure, name: str, label: str) -> Markup:
    """The figure as an element of a page: no date, no ids but its own, colours as variables, the page's typeface."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Type": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    # Its style sheet would hold for the whole page.
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    own = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    used = set(re.findall(r"(?:url\(|href=\")#([^)\"]+)", text))
    # Only what is inside of tags is rewritten, never a word of a label.
    text = re.sub(r"<[^>]+>", lambda found: _rewritten(found[0], own, used), text)
    text = re.sub(r"\s*\n\s*", "\n", text)
    box = re.findall(r'viewBox="([^"]+)"', text)[0]
    head = Markup('<svg role="img" viewBox="{}" aria-label="{}">').format(box, label)
    return Markup(re.sub(r"^<svg [^>]*>", lambda _: head, text).strip())


def _rewritten(tag: str, name: str, used: set[str]) -> str:
    # Ids that something refers to become unique on the page; the others go.
    tag = re.sub(r' id="([^"]+)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", tag)
    tag = re.sub(r'(url\(|href=")#([^)"]+)', rf"\g<1>#{name}-\g<2>", tag)
    tag = re.sub(r"#010[23][0-9a-f]{2}", lambda found: _VARIABLES[found[0]], tag)
    # Sizes and weights of text stay, and coordinates to a hundredth of a pixel.
    tag = re.sub(r"font-family: [^;]*; ", "", tag)
    tag = re.sub(r' transform="rotate\(-0 [^"]*"', "", tag)
    return re.sub(r"(\d\.\d{2})\d+", r"\1", tag)
