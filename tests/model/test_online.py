"""The online model against plain loops over its definition, against `ward`, and on an example by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pinnersage_assets.model.medoids import medoids
from pinnersage_assets.model.online import StoredClusters, update_clusters
from pinnersage_assets.model.ward import ward

CANNOT_SAY = None


def stored_clusters(medoid_pin_ids=(), sizes=(), importances=()):
    return StoredClusters(
        np.array(medoid_pin_ids, dtype=np.int64),
        np.array(sizes, dtype=np.int64),
        np.array(importances, dtype=np.float64),
    )


def update(stored, stored_vectors, pin_ids, vectors, ages=None, days_since=0.5, alpha=1.0, decay_per_day=0.1):
    pin_ids = np.array(pin_ids, dtype=np.int64)
    dimensions = np.shape(vectors)[1] if len(vectors) else np.shape(stored_vectors)[1]
    return update_clusters(
        stored,
        np.array(stored_vectors, dtype=np.float32).reshape(-1, dimensions),
        pin_ids,
        np.array(vectors, dtype=np.float32).reshape(-1, dimensions),
        np.zeros(len(pin_ids)) if ages is None else np.array(ages, dtype=np.float64),
        days_since,
        alpha,
        decay_per_day,
    )


def in_order_of_appearance(labels, first):
    """New clusters numbered from ``first`` on as they appear; what is below it stays."""
    names = {}
    return [label if label < first else names.setdefault(label, first + len(names)) for label in labels]


def expected_labels(stored_vectors, sizes, pin_ids, vectors, alpha):
    """All pairs looked at again before each merge, from means; CANNOT_SAY where rounding may choose."""
    points = {}
    for pin, vector in zip(pin_ids, vectors, strict=True):
        points.setdefault(pin, [0, np.asarray(vector, dtype=np.float64)])[0] += 1
    # Of each cluster: whether it is stored, its members, weight and mean.
    clusters = [
        (True, {-1 - k}, size, np.asarray(v, dtype=np.float64))
        for k, (size, v) in enumerate(zip(sizes, stored_vectors, strict=True))
    ]
    clusters += [(False, {pin}, weight, vector) for pin, (weight, vector) in sorted(points.items())]
    while True:
        pairs = []
        for i, (is_stored, _, n, mean) in enumerate(clusters):
            for j in range(i):
                if not (is_stored and clusters[j][0]):
                    difference = mean - clusters[j][3]
                    pairs.append((2 * n * clusters[j][2] / (n + clusters[j][2]) * (difference @ difference), j, i))
        pairs.sort()
        if any(0 < abs(distance - alpha) <= 1e-9 * (1 + distance) for distance, _, _ in pairs):
            return CANNOT_SAY
        if not pairs or pairs[0][0] > alpha:
            break
        if len(pairs) > 1 and pairs[1][0] - pairs[0][0] <= 1e-9 * (1 + pairs[0][0]):
            return CANNOT_SAY
        _, j, i = pairs[0]
        (s, members, n, mean), (_, others, m, other) = clusters[j], clusters[i]
        clusters[j] = (s, members | others, n + m, (n * mean + m * other) / (n + m))
        del clusters[i]
    label_of = {pin: number for number, (_, members, _, _) in enumerate(clusters) for pin in members}
    return in_order_of_appearance([label_of[pin] for pin in pin_ids], len(sizes))


def expected_medoid(own, members, vectors):
    """The nearest to the weighted mean; ``own`` is (pin, vector, size) of the stored cluster, or None."""
    candidates = [own] if own else []
    candidates += [(pin, np.asarray(vectors[pin], dtype=np.float64), n) for pin, n in members.items()]
    mean = sum(n * vector for _, vector, n in candidates) / sum(n for _, _, n in candidates)
    squared = {pin: float(((vector - mean) ** 2).sum()) for pin, vector, _ in candidates}
    least = min(squared.values())
    return min(pin for pin, one in squared.items() if one <= least * (1 + 1e-6) + 1e-18)


def random_case(seed, d=6):
    rng = np.random.default_rng(seed)
    count, recent = int(rng.integers(0, 12)), int(rng.integers(0, 25))
    centres = rng.standard_normal((6, d))

    def some(n):
        found = centres[rng.integers(6, size=n)] + rng.uniform(0.05, 0.7) * rng.standard_normal((n, d))
        return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)

    ids = rng.choice(10**12, size=count + 18, replace=False)
    stored = stored_clusters(ids[:count], rng.integers(1, 40, size=count), rng.uniform(0, 9, size=count))
    vectors = some(count + 18)
    # Some of them repeat a stored medoid, or each other.
    rows = rng.integers(count - min(count, 2), count + 18, size=recent)
    arguments = {
        "stored": stored,
        "stored_vectors": vectors[:count],
        "pin_ids": ids[rows],
        "vectors": vectors[rows],
        "ages": rng.uniform(0, 1, size=recent),
        "days_since": float(rng.uniform(0, 1)),
        "alpha": float(rng.choice([0.0, 0.2, 0.7, 1.5, 5.0, np.inf])),
        "decay_per_day": float(rng.choice([0.0, 0.01, 1.0])),
    }
    return rng, arguments


def test_it_does_what_plain_loops_over_the_definition_do():
    left_out = merged = 0
    for seed in range(300):
        _, case = random_case(seed)
        found, stored = update_clusters(**case), case["stored"]
        count, pins, vectors = len(stored.sizes), case["pin_ids"].tolist(), case["vectors"]
        # A repeat weighs on the stored cluster from the start.
        medoid_rows = {pin: k for k, pin in enumerate(stored.medoid_pin_ids.tolist())}
        sizes = stored.sizes.copy()
        for pin in pins:
            if pin in medoid_rows:
                sizes[medoid_rows[pin]] += 1
        others = [n for n, pin in enumerate(pins) if pin not in medoid_rows]
        expected = expected_labels(
            case["stored_vectors"], sizes, [pins[n] for n in others], vectors[others], case["alpha"]
        )
        if expected is CANNOT_SAY:
            left_out += 1
            continue
        of_other = dict(zip(others, expected, strict=True))
        labels = [of_other.get(n, medoid_rows.get(pin)) for n, pin in enumerate(pins)]
        assert found.labels.tolist() == labels
        assert found.stored == count
        assert found.labels.dtype == found.sizes.dtype == found.medoid_pin_ids.dtype == np.int64
        vector_of = dict(zip(pins, vectors, strict=True))
        for cluster in range(max([count - 1, *labels]) + 1):
            own = [n for n, label in enumerate(labels) if label == cluster]
            size = int(stored.sizes[cluster]) if cluster < count else 0
            kept = float(stored.importances[cluster]) if cluster < count else 0.0
            kept *= math.exp(-case["decay_per_day"] * case["days_since"])
            fresh = sum(math.exp(-case["decay_per_day"] * case["ages"][n]) for n in own)
            assert found.sizes[cluster] == size + len(own)
            assert found.importances[cluster] == pytest.approx(kept + fresh, rel=1e-12)
            members = {pin: sum(pins[n] == pin for n in own) for pin in {pins[n] for n in own}}
            of_stored = None
            if cluster < count:
                pin = int(stored.medoid_pin_ids[cluster])
                of_stored = (pin, case["stored_vectors"][cluster].astype(np.float64), size + members.pop(pin, 0))
            assert found.medoid_pin_ids[cluster] == expected_medoid(of_stored, members, vector_of)
        assert len(found.sizes) == len(found.importances) == len(found.medoid_pin_ids) == max([count - 1, *labels]) + 1
        merged += len(set(labels)) < len(set(pins))
    assert left_out < 30
    assert merged > 100


@pytest.mark.parametrize("seed", range(20))
def test_where_nothing_is_stored_it_is_the_batch_model(seed):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((5, 32))
    vectors = centres[rng.integers(5, size=40)] + 0.4 * rng.standard_normal((40, 32))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    ids = rng.choice(10**6, size=40, replace=False)
    rows = rng.integers(40, size=60)
    alpha = float(rng.choice([0.3, 0.8, 1.5]))
    found = update(stored_clusters(), [], ids[rows], vectors[rows], alpha=alpha)
    np.testing.assert_array_equal(found.labels, ward(vectors[rows], alpha))
    np.testing.assert_array_equal(found.medoid_pin_ids, ids[rows][medoids(vectors[rows], ids[rows], found.labels)])
    np.testing.assert_array_equal(found.sizes, np.bincount(found.labels))


@pytest.mark.parametrize("seed", range(20))
def test_the_order_of_actions_only_numbers_new_clusters(seed):
    rng, case = random_case(seed)
    found = update_clusters(**case)
    order = rng.permutation(len(case["pin_ids"]))
    shuffled = update_clusters(**case | {name: case[name][order] for name in ("pin_ids", "vectors", "ages")})
    expected = in_order_of_appearance(found.labels[order].tolist(), found.stored)
    assert shuffled.labels.tolist() == expected
    renamed = dict(zip(expected, found.labels[order].tolist(), strict=True))
    rows = [renamed.get(cluster, cluster) for cluster in range(len(found.sizes))]
    np.testing.assert_array_equal(shuffled.medoid_pin_ids, found.medoid_pin_ids[rows])
    np.testing.assert_array_equal(shuffled.sizes, found.sizes[rows])
    np.testing.assert_allclose(shuffled.importances, found.importances[rows], rtol=1e-12)


def test_a_day_worked_by_hand():
    # On a line: stored at 0 (3 actions) and at 10 (1 action); pins at 1, twice, 4 and 9.5.
    stored = stored_clusters([50, 60], [3, 1], [2.0, 1.0])
    found = update(
        stored,
        [[0.0], [10.0]],
        [7, 8, 7, 9],
        [[1.0], [4.0], [1.0], [9.5]],
        ages=[0.4, 0.3, 0.2, 0.1],
        days_since=0.5,
        alpha=3.0,
        decay_per_day=1.0,
    )
    # 9.5 joins 10 (2 · 1/2 · 0.25 = 0.25), then 1 joins 0 (2 · 6/5 · 1 = 2.4), whose mean is now 0.4; 4 stays alone.
    assert found.labels.tolist() == [0, 2, 0, 1]
    assert found.sizes.tolist() == [5, 2, 1]
    # 0 is 0.4 from the mean and 1 is 0.6; 10 and 9.5 are as near to theirs, and 9 is the smaller id.
    assert found.medoid_pin_ids.tolist() == [50, 9, 8]
    expected = [2 * math.exp(-0.5) + math.exp(-0.4) + math.exp(-0.2), math.exp(-0.5) + math.exp(-0.1), math.exp(-0.3)]
    assert found.importances.tolist() == pytest.approx(expected)
    assert found.stored == 2


def test_stored_clusters_never_merge_though_a_pin_may_lie_on_both():
    stored = stored_clusters([5, 6], [4, 4], [1.0, 1.0])
    found = update(stored, [[1.0, 0.0], [1.0, 0.0]], [9], [[1.0, 0.0]], alpha=np.inf)
    # Equally near to both: the first.
    assert found.labels.tolist() == [0]
    assert found.medoid_pin_ids.tolist() == [5, 6]
    assert found.sizes.tolist() == [5, 4]


def test_of_pairs_equally_near_the_smallest_pin_goes_first_and_stored_clusters_before_new_ones():
    # At 0, 1 and 2 on a line: both pairs are at distance 1, and the pair of the smallest pin id merges.
    for ids, labels in (([1, 2, 3], [0, 0, 1]), ([3, 2, 1], [0, 1, 1]), ([2, 3, 1], [0, 1, 1])):
        assert update(stored_clusters(), [], ids, [[0.0], [1.0], [2.0]], alpha=1.2).labels.tolist() == labels
    # Stored at 0: a pin at 1 is as far from it as from the pin at 2.
    found = update(stored_clusters([9], [1], [1.0]), [[0.0]], [1, 2], [[1.0], [2.0]], alpha=1.2)
    assert found.labels.tolist() == [0, 1]


def test_alpha_0_merges_what_is_identical_and_no_more():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((4, 256)).astype(np.float32) * 100
    close = np.nextafter(vectors[2], np.float32(np.inf))
    stored = stored_clusters([70, 80], [5, 6], [1.0, 1.0])
    recent = np.stack([vectors[0], vectors[2], vectors[3], vectors[2], close, vectors[3]])
    found = update(stored, vectors[:2], [1, 2, 3, 4, 5, 3], recent, alpha=0.0)
    assert found.labels.tolist() == [0, 2, 3, 2, 4, 3]


def test_a_repeat_of_a_stored_medoid_joins_it_whatever_is_nearer():
    # Two medoids with the same vector: the pin's own cluster takes it, not the first.
    stored = stored_clusters([6, 5], [4, 4], [1.0, 1.0])
    found = update(stored, [[1.0, 0.0], [1.0, 0.0]], [5, 5], [[1.0, 0.0]] * 2, alpha=0.0)
    assert found.labels.tolist() == [1, 1]
    assert found.medoid_pin_ids.tolist() == [6, 5]
    assert found.sizes.tolist() == [4, 6]


def test_with_no_limit_all_is_one_unless_it_is_stored():
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((8, 5))
    assert set(update(stored_clusters(), [], range(8), vectors, alpha=np.inf).labels) == {0}
    stored = stored_clusters([100, 101], [1, 2], [1.0, 1.0])
    assert set(update(stored, vectors[:2], range(6), vectors[2:], alpha=np.inf).labels) <= {0, 1}


def test_without_recent_actions_only_time_passes():
    stored = stored_clusters([4, 3], [2, 1], [1.5, 0.0])
    found = update(stored, np.eye(2), [], np.empty((0, 2)), days_since=2.0, decay_per_day=0.3)
    assert found.medoid_pin_ids.tolist() == [4, 3]
    assert found.sizes.tolist() == [2, 1]
    assert found.importances.tolist() == [pytest.approx(1.5 * math.exp(-0.6)), 0.0]
    assert (found.labels.tolist(), found.stored) == ([], 2)


def test_of_nobody_nothing_is_made():
    found = update_clusters(
        stored_clusters(), np.empty((0, 3), np.float32), np.empty(0, int), np.empty((0, 3), np.float32),
        np.empty(0), 0.0, 1.0, 0.1,
    )  # fmt: skip
    assert all(len(part) == 0 for part in (found.medoid_pin_ids, found.sizes, found.importances, found.labels))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_what_holds_of_any_update(seed):
    _, case = random_case(seed)
    found, stored = update_clusters(**case), case["stored"]
    count, pins = len(stored.sizes), case["pin_ids"]
    assert found.sizes.sum() == stored.sizes.sum() + len(pins)
    assert (found.sizes[:count] >= stored.sizes).all()
    assert (found.sizes >= 1).all()
    assert len(set(found.medoid_pin_ids.tolist())) == len(found.medoid_pin_ids)
    assert (
        np.diff([-1, *dict.fromkeys(found.labels[found.labels >= count].tolist())][1:], prepend=count - 1) == 1
    ).all()
    for cluster, medoid in enumerate(found.medoid_pin_ids):
        candidates = set(pins[found.labels == cluster]) | (set(stored.medoid_pin_ids[cluster : cluster + 1]))
        assert medoid in candidates
    for pin in set(pins):
        assert len(set(found.labels[pins == pin])) == 1
    # What is never looked at again is as it was.
    untouched = np.setdiff1d(np.arange(count), found.labels)
    np.testing.assert_array_equal(found.medoid_pin_ids[untouched], stored.medoid_pin_ids[untouched])


GOOD = {
    "stored": stored_clusters([1], [1], [1.0]),
    "stored_vectors": np.ones((1, 3), np.float32),
    "pin_ids": np.array([2, 3]),
    "vectors": np.ones((2, 3), np.float32),
    "ages": np.zeros(2),
    "days_since": 0.0,
    "alpha": 1.0,
    "decay_per_day": 0.1,
}


@pytest.mark.parametrize(
    ("name", "bad", "message"),
    [
        ("stored", StoredClusters(np.array([1]), np.array([1, 2]), np.array([1.0])), "as many sizes"),
        ("stored", stored_clusters([1], [0], [1.0]), "sizes >= 1"),
        ("stored", stored_clusters([1], [1], [np.nan]), "importances >= 0"),
        ("stored_vectors", np.ones((1, 4), np.float32), "stored_vectors"),
        ("stored_vectors", np.full((1, 3), np.inf, np.float32), "finite"),
        ("vectors", np.full((2, 3), np.nan, np.float32), "finite"),
        ("vectors", np.ones(3, np.float32), "vectors"),
        ("pin_ids", np.array([2.0, 3.0]), "pin_ids"),
        ("ages", np.array([0.0, -1.0]), "ages"),
        ("ages", np.array([0.0, np.nan]), "ages"),
        ("ages", np.zeros(1), "ages"),
        ("days_since", -0.1, "days_since"),
        ("decay_per_day", np.inf, "decay_per_day"),
        ("alpha", np.nan, "alpha"),
    ],
)
def test_bad_input_is_named(name, bad, message):
    with pytest.raises(ValueError, match=message):
        update_clusters(**GOOD | {name: bad})
