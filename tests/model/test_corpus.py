"""Which pins may be recommended, against the rules written out."""

import datetime
import math

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
    "actions": pl.Int64,
}


def frame(*rows):
    return pl.DataFrame([(*row, 0)[:7] for row in rows], schema=SCHEMA, orient="row")


def excluded(*rows, minimal_side_pixels=200, maximal_text_fraction=0.5, minimal_actions=0):
    """Reasons by pin; of a row without actions there are none."""
    found = exclusions(frame(*rows), minimal_side_pixels, maximal_text_fraction, minimal_actions)
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
        (None, 200, None, None),
        (300, 300, math.nan, None),
    ],
)
def test_quality(width, height, text_fraction, reason):
    assert excluded((DAYS[0], 1, 1, width, height, text_fraction)) == ({1: reason} if reason else {})


@pytest.mark.parametrize(
    ("off", "reasons"),
    [
        ({}, ["low_resolution", "mostly_text", "low_engagement"]),
        ({"minimal_side_pixels": 0}, ["mostly_text", "mostly_text", "low_engagement"]),
        ({"maximal_text_fraction": 1.0}, ["low_resolution", "low_engagement", "low_engagement"]),
        ({"minimal_actions": 0}, ["low_resolution", "mostly_text", None]),
        ({"minimal_side_pixels": 0, "maximal_text_fraction": 1.0}, ["low_engagement"] * 3),
        ({"minimal_side_pixels": 0, "maximal_text_fraction": 1.0, "minimal_actions": 0}, [None] * 3),
    ],
)
def test_the_first_reason_that_is_not_switched_off_is_told(off, reasons):
    # Sizes and shares that cannot be do not escape the switches either.
    rows = [(DAYS[0], 1, 1, -1, 100, 30.0, 4), (DAYS[0], 2, 2, 300, 300, 0.9, 4), (DAYS[0], 3, 3, 300, 300, 0.1, 4)]
    found = excluded(*rows, **{"minimal_actions": 5, **off})
    assert [found.get(pin) for pin in (1, 2, 3)] == reasons


GOOD, POOR = (300, 300, 0.1), (100, 100, 0.1)


def test_a_group_is_represented_by_its_earliest_eligible_pin():
    # The representative of the embedding, 1, is of low quality: 3, the first good one, stands for the group.
    rows = [(DAYS[0], 1, 1, *POOR), (DAYS[1], 5, 1, *GOOD), (DAYS[1], 3, 1, *GOOD), (DAYS[2], 2, 1, *GOOD)]
    assert excluded(*rows) == {1: "low_resolution", 5: "near_duplicate", 2: "near_duplicate"}
    assert excluded(*reversed(rows)) == excluded(*rows)


def test_a_poor_pin_that_repeats_is_poor():
    assert excluded((DAYS[0], 1, 1, *GOOD), (DAYS[1], 2, 1, *POOR)) == {2: "low_resolution"}


@pytest.mark.parametrize(
    ("actions", "minimal_actions", "reason"), [(4, 5, "low_engagement"), (5, 5, None), (0, 0, None)]
)
def test_engagement(actions, minimal_actions, reason):
    found = excluded((DAYS[0], 1, 1, *GOOD, actions), minimal_actions=minimal_actions)
    assert found == ({1: reason} if reason else {})


def test_actions_on_any_pin_of_a_group_speak_for_all_and_its_earliest_good_pin_represents_it():
    rows = [(DAYS[0], 1, 1, *POOR, 3), (DAYS[1], 2, 1, *GOOD, 0), (DAYS[2], 3, 1, *GOOD, 2), (DAYS[0], 4, 4, *GOOD, 4)]
    assert excluded(*rows, minimal_actions=5) == {1: "low_resolution", 3: "near_duplicate", 4: "low_engagement"}
    assert excluded(*rows, minimal_actions=6) == {1: "low_resolution", **dict.fromkeys((2, 3, 4), "low_engagement")}


@pytest.mark.parametrize("minimal_actions", [0, 4])
@pytest.mark.parametrize("seed", range(5))
def test_exclusions_are_those_of_a_loop_and_a_group_keeps_its_representative(seed, minimal_actions):
    rng = np.random.default_rng(seed)
    rows = [
        (DAYS[rng.integers(3)], pin, int(rng.integers(1, 15)), *(GOOD if rng.random() < 0.7 else POOR), actions)
        for pin, actions in zip(rng.permutation(60).tolist(), rng.poisson(1, 60).tolist(), strict=True)
    ]
    expected, represented = {}, set()
    for _, pin, group, width, *_ in sorted(rows):
        if width < 200:
            expected[pin] = "low_resolution"
        elif sum(row[6] for row in rows if row[2] == group) < minimal_actions:
            expected[pin] = "low_engagement"
        elif group in represented:
            expected[pin] = "near_duplicate"
        else:
            represented.add(group)
    assert excluded(*rows, minimal_actions=minimal_actions) == expected
    assert ("low_engagement" in expected.values()) == (minimal_actions > 0)
    if minimal_actions == 0:
        # Then nothing that comes later changes what was said of a pin.
        for day in DAYS:
            known = [row for row in rows if row[0] <= day]
            assert excluded(*known) == {row[1]: expected[row[1]] for row in known if row[1] in expected}


def test_no_pins_give_none():
    assert excluded() == {}
