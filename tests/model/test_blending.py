"""One list of two: worked examples, a loop that takes turns, and what must hold of any lists."""

from fractions import Fraction

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pinnersage_assets.model.blending import NO_BLENDS, SOURCES, blended, quotas


def lists(by_user, score=1.0):
    """Ranked lists, given as pins by user; the score falls with the rank."""
    rows = [(user, rank, pin, score / rank) for user, pins in by_user.items() for rank, pin in enumerate(pins, start=1)]
    schema = {"user_id": pl.Int64, "rank": pl.Int32, "pin_id": pl.Int64, "score": pl.Float32}
    return pl.DataFrame(rows, schema=schema, orient="row")


def pins_of(pinnersage, pixie, shares):
    """Of user 1 the pins with the first two letters of their sources."""
    rows = blended(lists({1: pinnersage}), lists({1: pixie}), shares)
    assert rows["rank"].to_list() == list(range(1, len(rows) + 1))
    return [f"{source[:2]} {pin}" for source, pin in rows.select("source", "pin_id").rows()]


def test_quotas_are_the_rounded_share_and_the_rest():
    assert quotas(400, 0.5) == (200, 200)
    assert quotas(10, 0.26) == (7, 3)
    assert quotas(10, 0.0) == (10, 0)
    assert quotas(1, 1.0) == (0, 1)


def test_both_take_turns_in_proportion_to_their_quotas():
    assert pins_of([1, 2, 3, 4], [11, 12, 13, 14], (2, 2)) == ["pi 1", "pi 11", "pi 2", "pi 12"]
    rows = blended(lists({1: range(1, 9)}), lists({1: range(11, 19)}), (6, 2))
    assert rows["pin_id"].to_list() == [1, 11, 2, 3, 4, 12, 5, 6]
    assert rows["source"].to_list() == [SOURCES[pin > 10] for pin in rows["pin_id"]]


def test_a_pin_of_both_counts_once_and_who_comes_later_goes_on():
    # Pixie comes to 1 second and to 12 first; PinnerSage has 12 as its third.
    rows = blended(lists({1: [1, 2, 12, 3, 4]}), lists({1: [1, 12, 13, 14, 15]}), (3, 3))
    assert rows.select("pin_id", "source").rows() == [
        (1, "pinnersage"),
        (2, "pinnersage"),
        (12, "pixie"),
        (13, "pixie"),
        (3, "pinnersage"),
        (14, "pixie"),
    ]


def test_what_one_lacks_the_other_makes_up_for():
    assert pins_of([1], [11, 12, 13, 14, 15], (2, 2)) == ["pi 1", "pi 11", "pi 12", "pi 13"]
    assert pins_of([], [11, 12], (3, 1)) == ["pi 11", "pi 12"]


def test_without_one_of_them_the_list_is_the_others():
    alone = lists({1: range(1, 9), -5: range(3, 6)})
    rows = blended(alone, lists({}), (2, 2))
    expected = alone.filter(pl.col("rank") <= 4).sort("user_id", "rank")
    assert rows.drop("source").select(expected.columns).equals(expected)
    # A quota of 0 leaves it out, whatever it has.
    assert blended(alone, lists({1: [50], 7: [60]}), (4, 0)).equals(rows)
    assert blended(lists({7: [60]}), alone, (0, 4)).drop("source").equals(rows.drop("source"))


def test_scores_are_those_of_the_source():
    rows = blended(lists({1: [1, 2]}), lists({1: [2, 1]}, score=100.0), (2, 2))
    assert rows.select("pin_id", "source", "score").rows() == [(1, "pinnersage", 1.0), (2, "pixie", 100.0)]


def test_nobody_has_no_rows_but_columns():
    for shares in ((2, 2), (0, 0)):
        assert blended(lists({}), lists({}), shares).equals(NO_BLENDS)


def test_a_negative_quota_is_an_error():
    with pytest.raises(ValueError, match=r"quotas must not be negative, unlike \(4, -1\)"):
        blended(lists({}), lists({}), (4, -1))


def by_turns(pinnersage, pixie, shares):
    """Whose next pin is due first takes it, unless it is there."""
    waiting = [(list(found), quota) for found, quota in zip((pinnersage, pixie), shares, strict=True)]
    places, found = [0, 0], {}
    while len(found) < sum(shares):
        due = [
            (Fraction(place, quota), which)
            for which, ((pins, quota), place) in enumerate(zip(waiting, places, strict=True))
            if quota and place < len(pins)
        ]
        if not due:
            break
        _, which = min(due)
        found.setdefault(waiting[which][0][places[which]], SOURCES[which])
        places[which] += 1
    return list(found.items())


ranked = st.lists(st.integers(0, 12), unique=True, max_size=10)


@given(st.lists(st.tuples(ranked, ranked), min_size=1, max_size=4), st.tuples(st.integers(0, 7), st.integers(0, 7)))
def test_any_lists_are_those_of_a_loop_that_takes_turns(of_users, shares):
    pinnersage, pixie = (lists({user: pair[which] for user, pair in enumerate(of_users)}) for which in range(2))
    rows = blended(pinnersage, pixie, shares)
    for user, pair in enumerate(of_users):
        own = rows.filter(user_id=user)
        assert own.select("pin_id", "source").rows() == by_turns(*pair, shares)
        assert own["rank"].to_list() == list(range(1, len(own) + 1))


@given(st.integers(1, 60), st.integers(1, 60))
def test_of_every_beginning_of_a_list_each_has_its_part(own, other):
    """Of lists that have nothing in common and enough, but for one place."""
    rows = blended(lists({1: range(200)}), lists({1: range(200, 400)}), (own, other))
    assert len(rows) == own + other
    assert (rows["source"] == "pixie").sum() == other
    for n, brought in enumerate((rows["source"] == "pixie").cum_sum().to_list(), start=1):
        assert abs(brought - n * other / (own + other)) <= 1
