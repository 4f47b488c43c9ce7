"""Intervals against the definition in loops, and for what they promise: to hold the truth as often as they say."""

import numpy as np
import pytest

from pinnersage_assets.model import bootstrap as module
from pinnersage_assets.model.bootstrap import difference_intervals

KEYS = (0, 739_000)


def population(seed, n_users=30, models=3):
    """Users with 1 to 4 days each, in random order, with scores and weights of some actions."""
    rng = np.random.default_rng(seed)
    users = np.repeat(rng.choice(10**12, n_users, replace=False) - 5 * 10**11, rng.integers(1, 5, size=n_users))
    days = np.concatenate([np.arange(np.sum(users == user)) for user in dict.fromkeys(users)])
    order = rng.permutation(len(users))
    return (
        users[order],
        days[order],
        rng.random((len(users), models)),
        rng.integers(1, 9, size=len(users)).astype(float),
    )


def ends(intervals):
    return np.stack([intervals.differences, intervals.lows, intervals.highs])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_intervals_are_those_of_users_drawn_in_a_loop(seed, weighted):
    users, days, scores, weights = population(seed)
    weights = weights if weighted else np.ones(len(users))
    found = difference_intervals(users, days, scores, 1, KEYS, weights if weighted else None, 0.8, 50)
    rng, ids = np.random.default_rng(KEYS), np.unique(users)
    resampled = []
    for _ in range(50):
        drawn = [row for user in ids[rng.integers(len(ids), size=len(ids))] for row in np.flatnonzero(users == user)]
        means = [sum(weights[r] * scores[r, m] for r in drawn) / sum(weights[r] for r in drawn) for m in range(3)]
        resampled.append(np.array(means) - means[1])
    means = np.average(scores, axis=0, weights=weights)
    np.testing.assert_allclose(found.differences, means - means[1], atol=1e-12)
    np.testing.assert_allclose(found.lows, np.quantile(resampled, 0.1, axis=0), atol=1e-12)
    np.testing.assert_allclose(found.highs, np.quantile(resampled, 0.9, axis=0), atol=1e-12)


def test_means_worked_by_hand():
    users, days = ["a", "a", "b"], np.array(["2024-01-01", "2024-01-02", "2024-01-01"], dtype="datetime64[D]")
    scores = np.array([[0.0, 1.0], [0.0, 0.5], [0.5, 0.5]])
    # Every user and day once: 2/3 less 1/6. Every action once, of 3, 2 and 1: 3/4 less 1/12.
    np.testing.assert_allclose(difference_intervals(users, days, scores, 0, KEYS).differences, [0, 1 / 2])
    weighted = difference_intervals(users, days, scores, 0, KEYS, np.array([3, 2, 1]))
    np.testing.assert_allclose(weighted.differences, [0, 2 / 3])
    weighted = difference_intervals(users, days, scores, 0, KEYS, np.array([1, 0, 3]))
    # Of resamples, a quarter is b alone (0), a quarter a alone (1).
    np.testing.assert_allclose(ends(weighted), [[0, 1 / 4], [0, 0], [0, 1]])


def simulated(seed, n_users, models, n_days=3, of_user=1.0):
    """Scores whose true mean is 0: what users are like, each in each model, and as much noise a day."""
    rng = np.random.default_rng(seed)
    users, days = np.repeat(np.arange(n_users), n_days), np.tile(np.arange(n_days), n_users)
    scores = of_user * rng.standard_normal((n_users, models))[users] + rng.standard_normal((len(users), models))
    scores[:, 0] = 0
    return users, days, scores


def coverage(intervals):
    return np.mean((intervals.lows[1:] <= 0) & (intervals.highs[1:] >= 0))


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize("weighted", [False, True])
def test_intervals_hold_the_truth_as_often_as_they_say(confidence, weighted):
    # A thousand models that have nothing to do with each other are a thousand trials.
    users, days, scores = simulated(1, 100, 1001)
    weights = np.random.default_rng(2).integers(1, 6, size=len(users)) if weighted else None
    found = difference_intervals(users, days, scores, 0, KEYS, weights, confidence)
    assert abs(coverage(found) - confidence) < 0.03


def test_with_few_users_intervals_are_too_narrow_by_no_more_than_is_said():
    found = difference_intervals(*simulated(3, 20, 3001), 0, KEYS)
    assert 0.91 < coverage(found) < 0.945


def test_rows_taken_one_by_one_would_promise_too_much():
    users, days, scores = simulated(4, 100, 301, n_days=8)
    by_user = difference_intervals(users, days, scores, 0, KEYS)
    by_row = difference_intervals(np.arange(len(users)), days, scores, 0, KEYS)
    assert coverage(by_row) < 0.7
    # Of 8 days, the mean has variance 1 + 1/8 by user, and the rows' (1 + 1) / 8 by row.
    ratio = np.median((by_user.highs - by_user.lows)[1:] / (by_row.highs - by_row.lows)[1:])
    np.testing.assert_allclose(ratio, np.sqrt((1 + 1 / 8) / (2 / 8)), rtol=0.05)


def test_where_days_of_a_user_have_nothing_in_common_users_are_as_wide_as_rows():
    users, days, scores = simulated(5, 200, 101, of_user=0)
    by_user = difference_intervals(users, days, scores, 0, KEYS)
    by_row = difference_intervals(np.arange(len(users)), days, scores, 0, KEYS)
    ratio = np.median((by_user.highs - by_user.lows)[1:] / (by_row.highs - by_row.lows)[1:])
    np.testing.assert_allclose(ratio, 1, rtol=0.05)


def test_models_that_score_alike_do_not_differ():
    users, days, scores, weights = population(6)
    scores[:, 2] = scores[:, 0]
    for chosen in (weights, None):
        found = ends(difference_intervals(users, days, scores, 0, KEYS, chosen))
        np.testing.assert_array_equal(found[:, [0, 2]], 0)
        assert found[1, 1] < found[0, 1] < found[2, 1]


def test_a_model_that_is_better_by_the_same_everywhere_is_so_for_certain():
    users, days, scores, weights = population(7)
    scores[:, 2] = scores[:, 1] + 0.25
    np.testing.assert_allclose(ends(difference_intervals(users, days, scores, 1, KEYS, weights))[:, 2], 0.25)


def test_intervals_depend_on_keys_but_not_on_the_order_of_rows_other_models_or_memory(monkeypatch):
    users, days, scores, weights = population(8)
    found = ends(difference_intervals(users, days, scores, 0, KEYS, weights))
    order = np.random.default_rng(9).permutation(len(users))
    shuffled = difference_intervals(users[order], days[order], scores[order], 0, KEYS, weights[order])
    np.testing.assert_array_equal(ends(shuffled), found)
    alone = difference_intervals(users, days, scores[:, [0, 2]], 0, KEYS, weights)
    np.testing.assert_allclose(ends(alone), found[:, [0, 2]], atol=1e-12)
    other = ends(difference_intervals(users, days, scores, 0, (1, -5), weights))
    np.testing.assert_array_equal(other[0], found[0])
    assert (other[1:, 1:] != found[1:, 1:]).all()
    assert (other != ends(difference_intervals(users, days, scores, 0, (1, 5), weights))).any()
    for at_once in (1, 70):
        monkeypatch.setattr(module, "_COUNTS_AT_ONCE", at_once)
        np.testing.assert_allclose(ends(difference_intervals(users, days, scores, 0, KEYS, weights)), found, atol=1e-12)


def test_rows_of_weight_0_are_as_if_they_were_not_there():
    users, days, scores, weights = population(10)
    weights[(users == users[0]) | (days == 2)] = 0
    scores[weights == 0] = np.nan
    some = weights > 0
    assert len(np.unique(users[some])) < len(np.unique(users))
    np.testing.assert_array_equal(
        ends(difference_intervals(users, days, scores, 0, KEYS, weights)),
        ends(difference_intervals(users[some], days[some], scores[some], 0, KEYS, weights[some])),
    )


def test_one_user_says_nothing_about_others():
    found = difference_intervals([7, 7], [1, 2], np.array([[0.0, 1.0], [0.0, 0.5]]), 0, KEYS)
    np.testing.assert_array_equal(ends(found), [[0, 0.75], [np.nan, np.nan], [np.nan, np.nan]])


@pytest.mark.parametrize("weights", [[], [0.0, 0.0]])
def test_nobody_has_no_difference(weights):
    users = np.arange(len(weights))
    found = difference_intervals(users, users, np.zeros((len(users), 4)), 0, KEYS, np.array(weights))
    np.testing.assert_array_equal(ends(found), np.full((3, 4), np.nan))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"users": [[1, 2, 2]]}, r"^users must be of shape \(rows,\)"),
        ({"days": [1, 2]}, "^days must be as many as users"),
        ({"days": [1, 2, 2]}, "^days must be there once for a user"),
        ({"weights": np.ones(2)}, "^weights must be as many as users"),
        ({"weights": np.array([1, -1, 1])}, "^weights must be finite numbers >= 0"),
        ({"weights": np.array([1, np.nan, 1])}, "^weights must be finite numbers >= 0"),
        ({"scores": np.zeros(3)}, r"^scores must be of shape \(3, models\)"),
        ({"scores": np.zeros((2, 2))}, r"^scores must be of shape \(3, models\)"),
        ({"scores": np.full((3, 2), np.nan)}, "^scores must be finite"),
        ({"baseline": 2}, "^baseline must be a column of scores, 0 to 1, not 2"),
        ({"baseline": -1}, "^baseline must be a column"),
        ({"confidence": 95}, "^confidence must lie strictly between 0 and 1, not 95"),
        ({"resamples": 0}, "^resamples must be >= 1, not 0"),
    ],
)
def test_bad_input_is_refused_by_name(changed, message):
    good = {"users": [1, 2, 2], "days": [1, 1, 2], "scores": np.zeros((3, 2)), "baseline": 0, "keys": KEYS}
    difference_intervals(**good)
    with pytest.raises(ValueError, match=message):
        difference_intervals(**good | changed)
