"""The four models of Table 1 against loops over their definitions, and cases worked out by hand."""

import math

import numpy as np
import pytest

from pinnersage_assets.model import next_action as module
from pinnersage_assets.model.k_means import k_means
from pinnersage_assets.model.next_action import CENTROIDS, predict_next_actions, predicted_of_users
from pinnersage_assets.model.randomness import keyed_uniform
from pinnersage_assets.model.single_embeddings import decay_averages

KEYS = (3, 739_000)
MODELS = ["last_pin", "decay_average", "k_means_oracle", "oracle"]


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def world():
    """Actions of 25 users in no order (user_ids, times, pin_rows, is_target), and 80 pins of 8 interests."""
    rng = np.random.default_rng(0)
    vectors = unit(rng.standard_normal((8, 6))[rng.integers(8, size=80)] + 0.3 * rng.standard_normal((80, 6)))
    vectors[70:] = vectors[69]
    n = 700
    users = np.concatenate([rng.choice(rng.choice(10**6, 24), size=n), np.full(12, -5)])
    rows = np.concatenate([rng.integers(80, size=n) // rng.integers(1, 4, size=n), rng.integers(69, 80, size=12)])
    # Whole hours, of which a day has few: many actions share a moment.
    times = np.where(
        rng.random(len(rows)) < 0.8, rng.uniform(0, 89, len(rows)), 89 + rng.integers(1, 6, len(rows)) / 24
    )
    return users, times, rows, times >= 89, vectors


def past_of(world, action):
    """The earlier actions of the same user, in no order."""
    users, times, *_ = world
    return np.flatnonzero((users == users[action]) & (times < times[action]))


def test_every_target_with_a_past_is_there_once(world):
    users, times, _, is_target, _ = world
    found = predict_next_actions(*world, 0.1, KEYS)
    targets = np.flatnonzero(is_target)
    known = [action for action in targets if len(past_of(world, action))]
    assert sorted(found.actions) == sorted(known)
    assert found.without_past == len(targets) - len(known)
    np.testing.assert_array_equal(found.users, users[found.actions])
    assert np.all(np.diff(found.users) >= 0)
    assert np.all((np.diff(times[found.actions]) >= 0) | (np.diff(found.users) > 0))
    assert list(found.cosines) == MODELS


@pytest.mark.parametrize("decay_per_day", [0.0, 0.01, 0.5])
def test_cosines_are_those_of_a_loop(world, decay_per_day):
    _, times, rows, _, vectors = world
    found = predict_next_actions(*world, decay_per_day, KEYS)
    several_last = 0
    for position, action in enumerate(found.actions):
        past, wanted = past_of(world, action), vectors[rows[action]].astype(np.float64)
        latest = [other for other in past if times[other] == times[past].max()]
        several_last += len(set(rows[latest])) > 1
        average = np.zeros(6)
        for other in past:
            average += math.exp(-decay_per_day * (times[action] - times[other])) * vectors[rows[other]].astype(
                np.float64
            )
        expected = {
            "last_pin": wanted @ vectors[min(rows[latest])],
            "decay_average": wanted @ average / np.linalg.norm(average),
            "oracle": max(wanted @ vectors[rows[other]] for other in past),
        }
        for model, cosine in expected.items():
            assert found.cosines[model][position] == pytest.approx(cosine, abs=1e-6), model
    assert several_last > 5


def test_averages_are_those_of_the_baseline(world):
    *_, vectors = world
    times, ends = np.sort(np.random.default_rng(1).uniform(0, 90, 20)), np.array([1, 5, 20])
    found = module._decay_averages(vectors[:20].astype(np.float64), times, ends, 0.1)
    for end, average in zip(ends, found, strict=True):
        ages = 90 - times[:end]
        expected = decay_averages(vectors, np.arange(end), ages, np.array([0, end]), 0.1)[0]
        np.testing.assert_allclose(average / np.linalg.norm(average), expected, atol=1e-6)


def test_centroids_are_those_that_k_means_converged_to_on_exactly_the_past(world, monkeypatch):
    _, times, rows, _, vectors = world
    seen = []
    centroids = module._centroids

    def spy(known, ends, uniform):
        seen.extend((known[:end], some) for end, some in zip(ends, centroids(known, ends, uniform), strict=True))
        return [some for _, some in seen[-len(ends) :]]

    monkeypatch.setattr(module, "_centroids", spy)
    found = predict_next_actions(*world, 0.1, KEYS)
    moments = [(found.users[i], times[action]) for i, action in enumerate(found.actions)]
    numbers = [list(dict.fromkeys(moments)).index(moment) for moment in moments]
    assert len(seen) == max(numbers) + 1
    for position, (action, number) in enumerate(zip(found.actions, numbers, strict=True)):
        known, some = seen[number]
        np.testing.assert_array_equal(
            np.sort(known, axis=0), np.sort(vectors[rows[past_of(world, action)]].astype(np.float64), axis=0)
        )
        assert len(some) == min(CENTROIDS, len(np.unique(known, axis=0)))
        nearest = [min(range(len(some)), key=lambda k: float(((pin - some[k]) ** 2).sum())) for pin in known]
        for k, centroid in enumerate(some):
            np.testing.assert_allclose(centroid, known[np.array(nearest) == k].mean(axis=0), atol=1e-9)
        best = max(float(vectors[rows[action]] @ centroid) / np.linalg.norm(centroid) for centroid in some)
        assert found.cosines["k_means_oracle"][position] == pytest.approx(best, abs=1e-6)
    assert any(len(some) < CENTROIDS for _, some in seen)


def test_first_centroids_are_those_of_k_means_with_the_users_own_randomness(world):
    users, times, rows, _, vectors = world
    found = predict_next_actions(*world, 0.1, KEYS)
    for start in np.flatnonzero(np.append(True, np.diff(found.users))):
        action = found.actions[start]
        past = past_of(world, action)
        past = past[np.lexsort((-rows[past], times[past]))]
        uniform = float(keyed_uniform("next action", *KEYS, users[action]))
        labels = k_means(vectors[rows[past]], np.ones(len(past), np.int64), CENTROIDS, uniform)
        means = unit(np.array([vectors[rows[past[labels == k]]].mean(axis=0) for k in range(labels.max() + 1)]))
        assert found.cosines["k_means_oracle"][start] == pytest.approx(max(means @ vectors[rows[action]]), abs=1e-6)


def test_a_user_depends_on_neither_others_nor_the_order(world):
    *actions, vectors = world
    found = predict_next_actions(*world, 0.1, KEYS)
    order = np.random.default_rng(2).permutation(len(actions[0]))
    order = order[np.isin(actions[0][order], found.users[:60])]
    again = predict_next_actions(*(array[order] for array in actions), vectors, 0.1, KEYS)
    same = np.isin(found.users, found.users[:60])
    np.testing.assert_array_equal(again.users, found.users[same])
    for model in MODELS:
        # Of actions at one moment on one pin, either may come first.
        np.testing.assert_array_equal(again.cosines[model], found.cosines[model][same])


def test_a_day_by_hand():
    """Pins: 0 east, 1 north, 2 west, 3 north-east; times in days."""
    vectors = unit(np.array([[1, 0], [0, 1], [-1, 0], [1, 1]]))
    actions = [
        # user, time, pin, target
        (1, 0.0, 0, False),
        (1, 1.0, 1, False),
        (1, 1.0, 3, False),  # at the time of pin 1, which is the smaller
        (1, 2.0, 1, True),  # sees the three above
        (1, 2.0, 0, True),  # so does this, and not its neighbour
        (1, 3.0, 1, True),  # last pins 1 and 0: the smaller is 0
        (1, 4.0, 2, False),  # later than all targets
        (2, 5.0, 0, True),  # nothing before
        (2, 5.0, 0, True),
        (2, 6.0, 2, True),
    ]
    user_ids, times, rows, is_target = (np.array(column) for column in zip(*actions, strict=True))
    found = predict_next_actions(user_ids, times, rows, is_target, vectors, math.log(2), KEYS)
    assert found.without_past == 2
    assert found.users.tolist() == [1, 1, 1, 2]
    half = math.sqrt(0.5)
    # In the order of (time, -row): pin 1 first, then pin 0 of day 2.
    assert found.actions.tolist() == [3, 4, 5, 9]
    np.testing.assert_allclose(found.cosines["last_pin"], [1, 0, 0, -1], atol=1e-7)
    np.testing.assert_allclose(found.cosines["oracle"], [1, 1, 1, -1], atol=1e-7)
    # Weights 1/2, 1, 1 before day 2; 1/4, 1/2, 1/2, 1, 1 before day 3.
    before = np.array([0.5 + half, 1 + half])
    after = np.array([0.25 + half / 2 + 1, 0.5 + half / 2 + 1])
    expected = [*(before[::-1] / np.linalg.norm(before)), after[1] / np.linalg.norm(after), -1]
    np.testing.assert_allclose(found.cosines["decay_average"], expected, atol=1e-7)
    # Three different vectors are their own centroids throughout.
    np.testing.assert_allclose(found.cosines["k_means_oracle"], [1, 1, 1, -1], atol=1e-7)

    counts = predicted_of_users(found, 0.8)
    assert (counts.users.tolist(), counts.targets.tolist()) == ([1, 2], [3, 1])
    assert {model: predicted.tolist() for model, predicted in counts.predicted.items()} == {
        "last_pin": [1, 0],
        "decay_average": [1 + int(expected[2] >= 0.8), 0],
        "k_means_oracle": [3, 0],
        "oracle": [3, 0],
    }


def test_predicted_of_users_are_those_of_a_loop(world):
    found = predict_next_actions(*world, 0.1, KEYS)
    counts = predicted_of_users(found, 0.9)
    assert counts.users.tolist() == sorted(set(found.users.tolist()))
    for number, user in enumerate(counts.users):
        assert counts.targets[number] == sum(found.users == user)
        for model in MODELS:
            own = found.cosines[model][found.users == user]
            assert counts.predicted[model][number] == sum(cosine >= 0.9 for cosine in own)
    assert all(0 < predicted.sum() < counts.targets.sum() for predicted in counts.predicted.values())


def test_pins_that_cancel_out_are_near_nothing():
    vectors = np.array([[1, 0], [-1, 0]], dtype=np.float32)
    target = np.array([False, False, True])
    found = predict_next_actions(np.zeros(3, int), np.array([0, 0, 1.0]), np.array([0, 1, 0]), target, vectors, 0, KEYS)
    assert found.cosines["decay_average"].tolist() == [0]
    assert found.cosines["oracle"].tolist() == [1]


def test_old_actions_do_not_underflow_and_later_ones_do_not_overflow():
    vectors = np.eye(2, dtype=np.float32)
    times, rows = np.array([0, 1, 1e5, 1e6]), np.array([0, 1, 1, 1])
    found = predict_next_actions(np.zeros(4, int), times, rows, times > 1, vectors, 1.0, KEYS)
    assert found.cosines["decay_average"] == pytest.approx([1 / math.hypot(1, math.exp(-1)), 1])


def test_rows_may_be_unsigned():
    times, rows = np.array([0, 0, 1.0]), np.array([0, 1, 0], dtype=np.uint32)
    found = predict_next_actions(np.zeros(3, int), times, rows, times == 1, np.eye(2, dtype=np.float32), 0.1, KEYS)
    assert found.cosines["last_pin"].tolist() == [1]


def test_nobody_and_no_targets():
    nothing = np.empty(0, np.int64)
    vectors = np.eye(3, dtype=np.float32)
    found = predict_next_actions(nothing, np.empty(0), nothing, np.empty(0, bool), vectors, 0.1, KEYS)
    assert (len(found.users), found.without_past) == (0, 0)
    counts = predicted_of_users(found, 0.8)
    assert (len(counts.users), len(counts.targets), list(counts.predicted)) == (0, 0, MODELS)
    one = np.zeros(1, np.int64)
    assert predict_next_actions(one, np.zeros(1), one, np.array([True]), vectors, 0.1, KEYS).without_past == 1


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        (0, np.zeros(2), "^user_ids must be integers"),
        (1, np.array([0, np.nan]), "^times must be finite"),
        (2, np.array([0, 3]), "^pin_rows must be rows of vectors, 0 to 2"),
        (2, np.array([0]), "^pin_rows must be integers, one a time"),
        (3, np.array([0, 1]), "^is_target must be booleans"),
        (4, np.eye(3), "^vectors must be finite float32"),
    ],
)
def test_arguments_that_are_wrong_are_named(argument, value, message):
    arguments = [np.zeros(2, int), np.zeros(2), np.zeros(2, int), np.zeros(2, bool), np.eye(3, dtype=np.float32)]
    arguments[argument] = value
    with pytest.raises(ValueError, match=message):
        predict_next_actions(*arguments, 0.1, KEYS)
