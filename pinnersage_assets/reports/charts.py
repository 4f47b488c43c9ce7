"""Small pictures for the metadata of assets in the Dagster UI."""

import base64
import io
from collections.abc import Sequence

from matplotlib.figure import Figure

# A blue that is readable on the UI's light and dark backgrounds.
_COLOUR = "#4f7cff"
_GREY = "#808080"


def bar_chart(labels: Sequence[object], values: Sequence[float], title: str) -> str:
    """A bar chart as a Markdown image with the picture inside, for `MetadataValue.md`.

    Args:
        labels: one a bar, drawn in this order.
        values: their heights; None is drawn as no bar.
        title: says what the bars are.
    """
    figure = Figure(figsize=(6, 2.4), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    positions = range(len(labels))
    axes.bar(positions, [value or 0 for value in values], color=_COLOUR)
    step = max(1, len(labels) // 12)
    axes.set_xticks(positions[::step], [str(label) for label in labels[::step]], fontsize=8)
    axes.tick_params(axis="y", labelsize=8)
    axes.set_title(title, fontsize=9)
    for spine in ("top", "right"):
        axes.spines[spine].set_visible(False)
    for part in (axes.title, *axes.get_xticklabels(), *axes.get_yticklabels()):
        part.set_color(_GREY)
    axes.tick_params(colors=_GREY)
    for spine in axes.spines.values():
        spine.set_color(_GREY)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", transparent=True)
    return f"![{title}](data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()})"
