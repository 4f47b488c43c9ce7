import base64
import datetime
import io

import matplotlib.image
import pytest

from pinnersage_assets.reports.charts import bar_chart


def picture(markdown):
    head, _, data = markdown.partition("](data:image/png;base64,")
    assert data.endswith(")")
    return head.removeprefix("!["), matplotlib.image.imread(io.BytesIO(base64.b64decode(data[:-1])), format="png")


@pytest.mark.parametrize(
    ("labels", "series"),
    [
        (["repin", "click"], {"actions": [3, 5]}),
        ([1], {"actions": [0]}),
        (list(range(500)), {"actions": list(range(500))}),
        (["a", "b"], {"actions": [None, 0.5]}),
        ([None, datetime.date(2026, 1, 1), "$x_1$"], {"actions": [1, 2, 3]}),
        (["a", "b"], {"relevance": [0.5, 0.7], "recall": [0.1, None], "size": [1, 2]}),
        (["$_^b$", "\\frac", "$"], {"actions": [1, 2, 3]}),  # no formulas
        (["x" * 1000, "y" * 1000], {"actions": [1, 2]}),
        ([], {"actions": []}),
    ],
)
def test_a_chart_is_a_picture_in_markdown(labels, series):
    title, pixels = picture(bar_chart(labels, series, "Actions by kind"))
    assert title == "Actions by kind"
    assert pixels.shape[2] == 4
    assert pixels.shape[0] > 100
    assert pixels[0, 0, 3] == 0  # transparent, for light and dark backgrounds


def test_higher_bars_take_more_ink():
    def ink(*values):
        blue = picture(bar_chart(["a", "b"], {"actions": values}, "t"))[1]
        return int(((blue[..., 2] > 0.9) & (blue[..., 0] < 0.5) & (blue[..., 3] > 0.9)).sum())

    assert ink(2, 2) > ink(1, 2) > ink(None, 2) > 0


def test_the_same_data_give_the_same_picture():
    assert bar_chart(["a"], {"n": [1]}, "t") == bar_chart(["a"], {"n": [1]}, "t")


def test_long_names_stand_below_each_other():
    names = [f"a_model_with_a_long_name_{number}" for number in range(20)]
    tall, flat = (
        picture(bar_chart(labels, {"n": range(20)}, "t"))[1] for labels in (names, list("abcdefghijklmnopqrst"))
    )
    assert tall.shape[0] > 1.5 * flat.shape[0]
    assert tall.shape[1] == flat.shape[1]
    # The highest bar, which is the last, is at the bottom and reaches the furthest to the right.
    blue = (tall[..., 2] > 0.9) & (tall[..., 0] < 0.5) & (tall[..., 3] > 0.9)
    rows = blue.any(axis=1).nonzero()[0]
    assert blue[rows[-1]].sum() > 5 * blue[rows[0]].sum()
