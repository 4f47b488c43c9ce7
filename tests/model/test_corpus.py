"""Which pins may be recommended, against the rules written out."""

import datetime

import numpy as np
import polars as pl
import pytest

from pinnersage_assets.model.corpus import exclusions

DAYS = [datetime.date(2026, 1, day) for day in (1, 2, 3)]
SCHEMA = {
    "dt": pl.Date,
    "pin_id": pl.Int64,
    "canonical_pin_id": pl.Int64,
    "width": pl.Int32,
    "height": pl.Int32,
    "text_fraction": pl.Float32,
}


def frame(*rows):
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def excluded(*rows):
    found = exclusions(frame(*rows), minimal_side_pixels=200, maximal_text_fraction=0.5)
    assert found.columns == ["pin_id", "reason"]
    return dict(found.rows())


@pytest.mark.parametrize(
    ("width", "height", "text_fraction", "reason"),
    [
        (200, 200, 0.5, None),
        (199, 900, 0.0, "low_resolution"),
        (900, 199, 0.0, "low_resolution"),
        (300, 300, 0.51, "mostly_text"),
        (100, 100, 0.9, "low_resolution"),
        (None, None, None, None),
        (None, 100, None, "low_resolution"),
        (None, 300, 0.6, "mostly_text"),
        (300, None, None, None),
    ],
)
def test_quality(width, height, text_fraction, reason):
    assert excluded((DAYS[0], 1, 1, width, height, text_fraction)) == ({1: reason} if reason else {})


GOOD, POOR = (300, 300, 0.1), (100, 100, 0.1)


def test_a_group_is_represented_by_its_earliest_eligible_pin():
    # The representative of the embedding, 1, is of low quality: 3, the first good one, stands for the group.
    rows = [(DAYS[0], 1, 1, *POOR), (DAYS[1], 5, 1, *GOOD), (DAYS[1], 3, 1, *GOOD), (DAYS[2], 2, 1, *GOOD)]
    assert excluded(*rows) == {1: "low_resolution", 5: "near_duplicate", 2: "near_duplicate"}
    assert excluded(*reversed(rows)) == excluded(*rows)


def test_a_poor_pin_that_repeats_is_poor():
    assert excluded((DAYS[0], 1, 1, *GOOD), (DAYS[1], 2, 1, *POOR)) == {2: "low_resolution"}


@pytest.mark.parametrize("seed", range(5))
def test_exclusions_are_those_of_a_loop_and_day_by_day_gives_the_same(seed):
    rng = np.random.default_rng(seed)
    rows = [
        (DAYS[rng.integers(3)], pin, int(rng.integers(1, 15)), *(GOOD if rng.random() < 0.7 else POOR))
        for pin in rng.permutation(60).tolist()
    ]
    expected, represented = {}, set()
    for _, pin, group, width, *_ in sorted(rows):
        if width < 200:
            expected[pin] = "low_resolution"
        elif group in represented:
            expected[pin] = "near_duplicate"
        represented |= {group} if width >= 200 else set()
    assert excluded(*rows) == expected
    by_day = {}
    for day in DAYS:
        known = [row for row in rows if row[0] <= day]
        of_the_day = {row[1] for row in known if row[0] == day}
        by_day |= {pin: reason for pin, reason in excluded(*known).items() if pin in of_the_day}
    assert by_day == expected


def test_no_pins_give_none():
    assert excluded() == {}
