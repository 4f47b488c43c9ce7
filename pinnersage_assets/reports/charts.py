"""Small pictures for the metadata of assets in the Dagster UI."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Readable on the UI's light and dark backgrounds.
_COLOURS = ("#4f7cff", "#f0883e", "#3fb950")
_GREY = "#808080"
_MOST_TICKS = 12
# Letters of all labels together that fit side by side.
_MOST_LETTERS = 80
# Inches: what a chart has around its axes, beside the labels of the y axis, and how wide a letter of these is. A layout
# that matplotlib finds by itself takes as long as the drawing, and a day's run draws some twenty charts.
_WIDE, _MARGIN, _TITLE, _LETTER = 6.0, 0.15, 0.3, 0.075
_LETTERS_OF_A_NUMBER, _LONGEST_LABEL = 6, 40


def bar_chart(labels: Sequence[object], series: Mapping[str, Sequence[float | None]], title: str) -> str:
    """A bar chart as a Markdown image with the picture inside, for `MetadataValue.md`.

    Args:
        labels: what each place on the x axis is. Where all are numbers, bars stand at these numbers, so that gaps show.
        series: heights by name, one a label; at most three. None is drawn as no bar.
        title: says what the bars are.

    Returns:
        ``![title](data:image/png;base64,...)``
    """
    # Not above: every start of Dagster, and of each of its processes, would wait for it.
    import matplotlib

    picture = io.BytesIO()
    # Labels are data: a dollar in one is no formula.
    with matplotlib.rc_context({"text.parse_math": False}):
        _drawn(labels, series, title).savefig(picture, format="png", transparent=True)
    return f"![{title}](data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()})"


def _drawn(labels: Sequence[object], series: Mapping[str, Sequence[float | None]], title: str) -> "Figure":
    from matplotlib.figure import Figure

    numeric = all(isinstance(label, int | float) for label in labels)
    # Names that would run into each other beside their bars stand one below the other.
    lying = not numeric and sum(len(str(label)) for label in labels) > _MOST_LETTERS
    tall = 0.8 + 0.2 * len(labels) if lying else 2.4
    names = [name if len(name) <= _LONGEST_LABEL else f"{name[: _LONGEST_LABEL - 1]}…" for name in map(str, labels)]
    left = _MARGIN + _LETTER * (max(map(len, names)) if lying else _LETTERS_OF_A_NUMBER)
    figure = Figure(figsize=(_WIDE, tall), dpi=110)
    axes = figure.add_axes(
        (
            left / _WIDE,
            (_MARGIN + _TITLE / 2) / tall,
            1 - (left + _MARGIN) / _WIDE,
            1 - (_MARGIN + 1.5 * _TITLE) / tall,
        )
    )
    places = np.array(labels, dtype=float) if numeric else np.arange(len(labels), dtype=float)
    step = np.diff(np.unique(places)).min(initial=np.inf)
    width = 0.8 * (step if np.isfinite(step) else 1.0) / len(series)
    for number, (name, heights) in enumerate(series.items()):
        offset = (number - (len(series) - 1) / 2) * width
        draw = axes.barh if lying else axes.bar
        draw(places + offset, [height or 0 for height in heights], width, color=_COLOURS[number], label=name)
    if lying:
        axes.set_yticks(places, names)
        axes.invert_yaxis()
    elif not numeric:
        every = max(1, -(-len(labels) // _MOST_TICKS))
        axes.set_xticks(places[::every], names[::every])
    if len(series) > 1:
        axes.legend(fontsize=8, frameon=False, labelcolor=_GREY)
    axes.set_title(title, fontsize=9, color=_GREY)
    axes.tick_params(colors=_GREY, labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(_GREY)
    return figure
