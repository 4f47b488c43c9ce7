"""Factors learnt from feedback, against the formula in plain loops and against examples worked by hand."""

import math

import numpy as np
import pytest

from pinnersage_assets.model import feedback as module
from pinnersage_assets.model.feedback import feedback_factors


def by_definition(shown, medoids, vectors, decay_per_day, strength, minimal_cosine, bounds=(0.1, 10.0)):
    """``shown`` lists (user, row, age, outcome), ``medoids`` (user, row)."""
    credit = [[] for _ in medoids]
    for user, row, age, outcome in shown:
        cosines = {k: float(vectors[row] @ vectors[own]) for k, (owner, own) in enumerate(medoids) if owner == user}
        nearest = max(cosines, key=cosines.get, default=None)
        if nearest is not None and cosines[nearest] >= minimal_cosine:
            credit[nearest].append((math.exp(-decay_per_day * age), outcome))
    everything = [one for own in credit for one in own]
    rate = sum(w for w, y in everything if y == 1) / sum(w for w, _ in everything)
    factors = []
    for own in credit:
        shrunken = (sum(w * y for w, y in own) + strength * rate) / (sum(w for w, _ in own) + strength)
        factors.append(min(max(shrunken / rate, bounds[0]), bounds[1]) if own else 1.0)
    return factors


@pytest.fixture(scope="module")
def world():
    """Impressions (users, rows, ages, outcomes), medoids (users, rows) and vectors; users 0 and 39 have no medoid."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((200, 6))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    owners = np.sort(rng.integers(1, 39, size=150))
    shown = rng.integers(40, size=600), rng.integers(200, size=600), rng.uniform(0, 30, 600)
    outcomes = rng.choice([-1, 0, 1], p=[0.1, 0.6, 0.3], size=600)
    return (*shown, outcomes), (owners, rng.integers(200, size=150)), vectors


@pytest.mark.parametrize("pairs", [1, 7, 10**6])
@pytest.mark.parametrize(("decay_per_day", "strength", "minimal_cosine"), [(0.05, 3.0, 0.4), (0.0, 0.5, -1.0)])
def test_factors_are_those_of_the_formula_in_batches_of_any_size(
    world, monkeypatch, pairs, decay_per_day, strength, minimal_cosine
):
    monkeypatch.setattr(module, "_PAIRS", pairs)
    shown, medoids, vectors = world
    factors = feedback_factors(*shown, *medoids, vectors, decay_per_day, strength, minimal_cosine)
    expected = by_definition(
        list(zip(*(a.tolist() for a in shown), strict=True)),
        list(zip(*(a.tolist() for a in medoids), strict=True)),
        vectors.astype(np.float64),
        decay_per_day,
        strength,
        minimal_cosine,
    )
    assert factors.dtype == np.float64
    np.testing.assert_allclose(factors, expected, rtol=1e-12)
    assert len(set(factors)) > 20


def test_the_order_of_impressions_does_not_matter(world):
    shown, medoids, vectors = world
    order = np.random.default_rng(1).permutation(600)
    np.testing.assert_allclose(
        feedback_factors(*(a[order] for a in shown), *medoids, vectors, 0.05, 3, 0.4),
        feedback_factors(*shown, *medoids, vectors, 0.05, 3, 0.4),
        rtol=1e-12,
    )


# Three directions; what is shown is a medoid's own pin, so that it is clear who gets the credit.
AXES = np.eye(3, dtype=np.float32)


def factors_of(outcomes_of_row, strength=2.0, **options):
    """Factors of one user's three medoids, for lists of the outcomes of impressions of today on each."""
    rows = [row for row, outcomes in enumerate(outcomes_of_row) for _ in outcomes]
    outcomes = [outcome for outcomes in outcomes_of_row for outcome in outcomes]
    return feedback_factors(
        [5] * len(rows), rows, [0.0] * len(rows), outcomes, [5] * 3, [0, 1, 2], AXES, 0.01, strength, 0.8, **options
    )


def test_worked_example():
    # p = 2 / 8. Medoid 0: (2 + 2/4) / (4 + 2) / (1/4) = 5/3. Medoid 1: (-1 + 1/2) / (4 + 2) < 0, so the minimum.
    np.testing.assert_allclose(factors_of([[1, 1, 0, 0], [0, 0, 0, -1], []]), [5 / 3, 0.1, 1.0])
    # Without the hide: (0 + 1/2) / 6 / (1/4) = 1/3.
    np.testing.assert_allclose(factors_of([[1, 1, 0, 0], [0, 0, 0, 0], []]), [5 / 3, 1 / 3, 1.0])


def test_few_impressions_say_little_and_many_speak_for_themselves():
    # What is shown of two is always taken up, of the third never: p is 1/2.
    few, many, never = factors_of([[1], [1] * 100, [0] * 101], strength=10)
    assert 1.0 < few < 1.15
    assert 1.9 < many < 2.0
    assert never < 0.15
    np.testing.assert_allclose(factors_of([[1], [1] * 100, [0] * 101], strength=0), [2.0, 2.0, 0.1])
    np.testing.assert_allclose(factors_of([[1], [1] * 100, [0] * 101], strength=1e12), [1.0, 1.0, 1.0])


def test_old_impressions_fade():
    # Of medoid 0 an old success and a new failure, of medoid 1 the reverse.
    def factors(decay_per_day):
        return feedback_factors(
            [0] * 4, [0, 0, 1, 1], [60, 0, 60, 0], [1, 0, 0, 1], [0, 0], [0, 1], AXES, decay_per_day, 1, 0.8
        )

    np.testing.assert_allclose(factors(0.0), [1.0, 1.0])
    old = math.exp(-6)
    rate = 0.5
    np.testing.assert_allclose(
        factors(0.1), [(old + rate) / (1 + old + 1) / rate, (1 + rate) / (1 + old + 1) / rate], rtol=1e-12
    )


def test_factors_are_clipped():
    outcomes = [[1, 1, 1, 1], [0] * 396, [-1] * 4]
    np.testing.assert_allclose(factors_of(outcomes, strength=0), [10.0, 0.1, 0.1])
    clipped = factors_of(outcomes, strength=0, minimal_factor=0.5, maximal_factor=1.5)
    np.testing.assert_allclose(clipped, [1.5, 0.5, 0.5])


def test_only_what_is_near_is_credited_to_the_nearest_own_medoid():
    vectors = np.float32([[1, 0], [0, 1], [0.8, 0.6], [-1, 0]])
    everyone = [1, 1, 2, 2], [0, 1, 0, 1]  # both users have both medoids

    def factors(shown, minimal_cosine=0.7):
        # A failure on either of user 2's medoids keeps p at 1/3 where the first impression is credited.
        users, rows, outcomes = [shown[0], 2, 2], [shown[1], 0, 1], [1, 0, 0]
        return feedback_factors(users, rows, [0] * 3, outcomes, *everyone, vectors, 0.0, 1, minimal_cosine)

    np.testing.assert_allclose(factors((1, 2)), [2, 1, 0.5, 0.5])  # (1 + 1/3) / (1 + 1) / (1/3)
    np.testing.assert_allclose(factors((1, 2), minimal_cosine=0.81), [1, 1, 1, 1])  # nothing credited is taken up
    np.testing.assert_allclose(factors((1, 1)), [1, 2, 0.5, 0.5])
    np.testing.assert_allclose(factors((3, 0)), [1, 1, 1, 1])  # a user without medoids
    np.testing.assert_allclose(factors((1, 3)), [1, 1, 1, 1])  # opposite to one, at right angles to the other
    np.testing.assert_allclose(factors((1, 3), minimal_cosine=0.0), [1, 2, 0.5, 0.5])  # at the threshold


def test_of_equally_near_medoids_the_earlier_gets_the_credit():
    vectors = np.float32([[1, 0], [1, 0]])
    factors = feedback_factors([0, 0], [0, 1], [0, 0], [1, 1], [0, 0], [1, 0], vectors, 0.0, 0, 0.8, 0.1, 10)
    np.testing.assert_allclose(factors, [1, 1])
    factors = feedback_factors([0, 0], [0, 1], [0, 0], [1, 0], [0, 0, 1], [1, 0, 0], vectors, 0.0, 1, 0.8)
    np.testing.assert_allclose(factors, [1, 1, 1])  # both on the first, which so is the average
    factors = feedback_factors([0, 1], [0, 0], [0, 0], [1, 0], [0, 0, 1], [1, 0, 0], vectors, 0.0, 1, 0.8)
    np.testing.assert_allclose(factors, [1.5, 1, 0.5])


def test_without_a_success_or_without_impressions_nothing_changes():
    np.testing.assert_array_equal(factors_of([[0, -1], [0], []]), [1, 1, 1])
    np.testing.assert_array_equal(factors_of([[], [], []]), [1, 1, 1])
    nothing = np.empty(0, dtype=np.int64)
    assert feedback_factors(*[nothing] * 6, AXES, 0.01, 1, 0.8).shape == (0,)
    assert feedback_factors([1], [0], [0.0], [1], nothing, nothing, AXES, 0.01, 1, 0.8).shape == (0,)


def test_impressions_whose_weight_underflows_change_nothing():
    factors = feedback_factors([0, 0], [0, 1], [0, 1e6], [1, 0], [0, 0], [0, 1], AXES, 1.0, 0, 0.8)
    np.testing.assert_array_equal(factors, [1, 1])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"impression_users": [1]}, "^impression_users must be integers, one an age"),
        ({"impression_rows": [0.0, 1.0]}, "^impression_rows must be integers, one an age"),
        ({"impression_rows": [0, 3]}, "^impression_rows must be rows of vectors, 0 to 2"),
        ({"impression_rows": [0, -1]}, "^impression_rows must be rows of vectors, 0 to 2"),
        ({"ages": [0.0, -0.1]}, "^ages must be finite days >= 0"),
        ({"ages": [0.0, np.nan]}, "^ages must be finite days >= 0"),
        ({"outcomes": [0, 2]}, "^outcomes must be 1"),
        ({"outcomes": [0]}, "^outcomes must be integers, one an age"),
        ({"medoid_users": [2, 1]}, "^medoid_users must be ascending"),
        ({"medoid_users": [1.0, 2.0]}, "^medoid_users must be integers"),
        ({"medoid_rows": [0]}, "^medoid_rows must be integers, one a medoid"),
        ({"medoid_rows": [0, 3]}, "^medoid_rows must be rows of vectors, 0 to 2"),
        ({"decay_per_day": -0.1}, "^decay_per_day must be"),
        ({"strength": -1}, "^strength must be"),
        ({"strength": np.nan}, "^strength must be"),
        ({"minimal_cosine": 1.1}, "^minimal_cosine must be a cosine"),
        ({"minimal_factor": 0.0}, "^minimal_factor and maximal_factor must enclose 1"),
        ({"maximal_factor": 0.9}, "^minimal_factor and maximal_factor must enclose 1"),
    ],
)
def test_bad_input_is_refused_by_name(changed, message):
    good = {
        "impression_users": [1, 2],
        "impression_rows": [0, 1],
        "ages": [0.0, 1.0],
        "outcomes": [0, 1],
        "medoid_users": [1, 2],
        "medoid_rows": [0, 1],
        "vectors": AXES,
        "decay_per_day": 0.01,
        "strength": 1.0,
        "minimal_cosine": 0.8,
    }
    feedback_factors(**good)
    with pytest.raises(ValueError, match=message):
        feedback_factors(**good | changed)
