"""Variants against plain loops over their definitions, and PinnerSage itself against the functions of the daily job."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from pinnersage_assets.model import variants as module
from pinnersage_assets.model.medoids import importance
from pinnersage_assets.model.pinnersage import cluster_users, draw_medoids, find_medoids
from pinnersage_assets.model.variants import VARIANTS, Embeddings, UserEmbeddings, Variant

ALPHA = 0.7
KEYS = (3, 739_000)
ALL = Variant(embeddings=1000, selection="top")


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def people():
    """Actions (user_ids, pin_rows, ages) of 30 users in no order, and pins (pin_ids, vectors)."""
    rng = np.random.default_rng(0)
    vectors = unit(rng.standard_normal((12, 8))[rng.integers(12, size=200)] + 0.4 * rng.standard_normal((200, 8)))
    # Two to 60 actions; two users more have acted on one pin, once and twice, and one on copies of one vector only.
    users = np.repeat(rng.choice(10**6, 30, replace=False), rng.integers(2, 61, size=30))
    rows = rng.integers(190, size=len(users)) // rng.integers(1, 5, size=len(users))
    users = np.concatenate([users, [-5, 2**62, 2**62], np.full(8, 17)])
    rows = np.concatenate([rows, [3, 4, 4], np.arange(192, 200)])
    vectors[192:] = vectors[192]
    ages = rng.uniform(0, 90, len(users))
    order = rng.permutation(len(users))
    return (users[order], rows[order], ages[order]), (np.sort(rng.choice(10**12, 200, replace=False)), vectors)


def embed(people, **variants):
    (users, rows, ages), pins = people
    return embed_users(users, rows, ages, *pins, ALPHA, variants, KEYS)


def embed_users(user_ids, pin_rows, ages, pin_ids, vectors, alpha, variants, keys):
    population = UserEmbeddings(user_ids, pin_rows, ages, pin_ids, vectors, alpha, keys)
    return {name: population.select(variant, keys) for name, variant in variants.items()}


def assert_same(left: Embeddings, right: Embeddings):
    np.testing.assert_array_equal(left.user_ids, right.user_ids)
    np.testing.assert_array_equal(left.medoid_rows, right.medoid_rows)
    np.testing.assert_array_equal(left.vectors, right.vectors)
    np.testing.assert_array_equal(left.importances, right.importances)


def clusters_of(people, monkeypatch, clustering):
    """Each user's clusters in order of their numbers, as lists of pin rows; spied on, since it is not returned."""
    seen = {}
    cluster = module._cluster

    def spy(clustering, users, rows, *rest):
        labels = cluster(clustering, users, rows, *rest)
        for user in dict.fromkeys(users.tolist()):
            own, its_rows = labels[users == user], rows[users == user]
            assert list(dict.fromkeys(own)) == list(range(own.max() + 1)), "labels in order of first appearance"
            seen[user] = [its_rows[own == label] for label in range(own.max() + 1)]
        return labels

    monkeypatch.setattr(module, "_cluster", spy)
    embed(people, it=Variant(clustering=clustering))
    monkeypatch.undo()
    return seen


def actions_of(people):
    (users, rows, _), _ = people
    return {user: Counter(rows[users == user].tolist()) for user in set(users.tolist())}


def test_pinnersage_itself_is_what_the_daily_job_computes(people):
    (users, rows, ages), (pin_ids, vectors) = people
    points = np.unique(np.stack([users, rows], axis=1), axis=0)
    counts = np.array([np.sum((users == user) & (rows == row)) for user, row in points])
    labels = cluster_users(*points.T, counts, vectors, ALPHA, lambda done, total: None)
    of_point = {tuple(point): (point[0], label) for point, label in zip(points.tolist(), labels.tolist(), strict=True)}
    names = sorted(set(of_point.values()))
    number = np.array([names.index(of_point[tuple(point)]) for point in points.tolist()])
    order = np.argsort(number, kind="stable")
    found = find_medoids(
        number[order], pin_ids[points[order, 1]], points[order, 1], counts[order], vectors, lambda done, total: None
    )
    found = found[np.searchsorted(number[order], np.arange(len(names)))]
    of_action = np.array([names.index(of_point[pair]) for pair in zip(users.tolist(), rows.tolist(), strict=True)])
    weights = importance(ages, of_action, 0.01, len(names))
    owners = np.array([user for user, _ in names])
    draw = draw_medoids(owners, found, weights, 3, KEYS)
    expected = [
        (owners[k], found[k], weights[k])
        for user in sorted(set(owners.tolist()))
        for k in sorted(np.flatnonzero((owners == user) & (draw >= 0)), key=draw.__getitem__)
    ]

    result = embed(people, **VARIANTS)["pinnersage"]
    np.testing.assert_array_equal(result.user_ids, [user for user, _, _ in expected])
    np.testing.assert_array_equal(pin_ids[result.medoid_rows], [pin for _, pin, _ in expected])
    np.testing.assert_allclose(result.importances, [weight for _, _, weight in expected], rtol=1e-12)
    np.testing.assert_array_equal(result.vectors, vectors[result.medoid_rows])
    assert result.vectors.dtype == np.float32
    assert np.bincount(np.unique(result.user_ids, return_inverse=True)[1]).tolist().count(3) > 20


def test_k_means_ends_where_every_pin_is_nearest_to_the_mean_of_its_own_cluster(people, monkeypatch):
    _, (_, vectors) = people
    clusters, actions = clusters_of(people, monkeypatch, "k_means"), actions_of(people)
    weighted_matters = 0
    for user, its in clusters.items():
        distinct = len(np.unique(vectors[np.concatenate(its)], axis=0))
        assert len(its) == min(5, distinct)
        points = [vectors[rows].astype(np.float64) for rows in its]
        means = [
            np.average(part, axis=0, weights=[actions[user][row] for row in rows.tolist()])
            for part, rows in zip(points, its, strict=True)
        ]
        for label, part in enumerate(points):
            squared = ((part[:, None] - np.array(means)) ** 2).sum(axis=2)
            assert (squared[:, label] <= squared.min(axis=1) + 1e-12).all()
        unweighted = np.array([part.mean(axis=0) for part in points])
        nearest = [((part[:, None] - unweighted) ** 2).sum(axis=2).argmin(axis=1) for part in points]
        weighted_matters += any((near != label).any() for label, near in enumerate(nearest))
    assert weighted_matters  # so that the above would fail without weights
    assert {len(its) for its in clusters.values()} >= {1, 5}


@pytest.mark.parametrize("copies", [1, 2])
def test_k_means_makes_no_more_clusters_than_there_are_different_vectors(copies):
    vectors = np.repeat(np.eye(7, dtype=np.float32), copies, axis=0)
    users = np.repeat(np.arange(1, 8), copies * np.arange(1, 8))  # user u has all copies of u vectors
    rows = np.concatenate([np.arange(copies * user) for user in range(1, 8)])
    variant = {"it": replace(ALL, clustering="k_means", decay_per_day=0.0)}
    result = embed_users(users, rows, np.zeros(len(rows)), np.arange(7 * copies), vectors, ALPHA, variant, KEYS)["it"]
    assert [np.sum(result.user_ids == user) for user in range(1, 8)] == [1, 2, 3, 4, 5, 5, 5]
    np.testing.assert_array_equal(result.importances[result.user_ids < 6], copies)
    np.testing.assert_array_equal(result.medoid_rows[result.user_ids == 5], copies * np.arange(5))


def test_k_means_depends_on_the_keys_and_the_user_alone(people):
    (users, rows, ages), pins = people
    variants = {"it": replace(ALL, clustering="k_means")}
    first = embed_users(users, rows, ages, *pins, ALPHA, variants, KEYS)["it"]
    other = embed_users(users, rows, ages, *pins, ALPHA, variants, (4, 739_000))["it"]
    assert not np.array_equal(first.importances, other.importances)
    # Somebody else's same actions, started elsewhere, end elsewhere for some.
    somebody = embed_users(users + 1, rows, ages, *pins, ALPHA, variants, KEYS)["it"]
    assert not np.array_equal(first.importances, somebody.importances)


def complete_linkage_by_definition(points, alpha):
    """Merge the two clusters whose furthest members are nearest, while they are within alpha."""
    clusters = [[i] for i in range(len(points))]
    squared = ((points[:, None].astype(np.float64) - points) ** 2).sum(axis=2)
    while len(clusters) > 1:
        furthest, a, b = min(
            (squared[np.ix_(clusters[a], clusters[b])].max(), a, b) for b in range(len(clusters)) for a in range(b)
        )
        if furthest > alpha:
            break
        clusters[a] += clusters.pop(b)
    return {frozenset(cluster) for cluster in clusters}


def test_complete_linkage_merges_while_no_two_pins_are_further_apart_than_alpha(people, monkeypatch):
    _, (_, vectors) = people
    ward = clusters_of(people, monkeypatch, "ward")
    found = clusters_of(people, monkeypatch, "complete_linkage")
    for its in found.values():
        rows = np.sort(np.concatenate(its))
        expected = complete_linkage_by_definition(vectors[rows], ALPHA)
        assert {frozenset(np.searchsorted(rows, part).tolist()) for part in its} == expected
    assert any(len(its) < sum(map(len, its)) for its in found.values())
    assert any(len(its) != len(ward[user]) for user, its in found.items())


@pytest.mark.parametrize("clustering", ["ward", "k_means", "complete_linkage"])
def test_each_cluster_is_represented_by_its_own_actions(people, monkeypatch, clustering):
    (users, rows, ages), (_, vectors) = people
    representations = {
        name: replace(ALL, clustering=clustering, representation=name, decay_per_day=0.1)
        for name in ("medoid", "decayed_medoid", "centroid", "decayed_centroid")
    }
    result = embed(people, **representations)
    position = 0
    for user, its in sorted(clusters_of(people, monkeypatch, clustering).items()):
        weights, means, decayed, medoids, decayed_medoids = [], [], [], [], []
        for part in its:
            own = (users == user) & np.isin(rows, part)
            points, fading = vectors[rows[own]].astype(np.float64), np.exp(-0.1 * ages[own])
            weights.append(fading.sum())
            means.append(unit(points.mean(axis=0)))
            decayed.append(unit(fading @ points))
            sums = [((points - vectors[row]) ** 2).sum() for row in part]
            medoids.append(part[np.flatnonzero(sums <= min(sums) * (1 + 1e-6))[0]])
            sums = np.array([fading @ ((points - vectors[row]) ** 2).sum(axis=1) for row in part])
            decayed_medoids.append(part[np.flatnonzero(sums <= min(sums) * (1 + 1e-9))[0]])
        order = sorted(range(len(its)), key=lambda k: (-weights[k], k))
        here = slice(position, position := position + len(its))
        for name in representations:
            np.testing.assert_array_equal(result[name].user_ids[here], user)
            its_medoids = decayed_medoids if name == "decayed_medoid" else medoids
            np.testing.assert_array_equal(result[name].medoid_rows[here], np.array(its_medoids)[order])
            np.testing.assert_allclose(result[name].importances[here], np.array(weights)[order], rtol=1e-12)
        np.testing.assert_array_equal(result["medoid"].vectors[here], vectors[medoids][order])
        np.testing.assert_array_equal(result["decayed_medoid"].vectors[here], vectors[decayed_medoids][order])
        np.testing.assert_allclose(result["centroid"].vectors[here], np.array(means)[order], atol=1e-6)
        np.testing.assert_allclose(result["decayed_centroid"].vectors[here], np.array(decayed)[order], atol=1e-6)
    assert position == len(result["medoid"].user_ids)
    assert not np.allclose(result["centroid"].vectors, result["decayed_centroid"].vectors, atol=1e-3)


def test_the_most_important_are_on_top_and_equals_by_cluster_number():
    vectors, pin_ids = np.eye(6, dtype=np.float32), np.arange(6)
    users, rows = np.full(9, 1), np.array([5, 5, 4, 4, 3, 3, 3, 1, 0])
    top = Variant(selection="top", decay_per_day=0.0, embeddings=4)
    result = embed_users(users, rows, np.zeros(9), pin_ids, vectors, 0.5, {"it": top}, KEYS)["it"]
    np.testing.assert_array_equal(result.medoid_rows, [3, 4, 5, 0])
    np.testing.assert_array_equal(result.importances, [3, 2, 2, 1])


def test_a_sample_depends_on_the_keys_and_on_importance(people):
    (users, rows, ages), pins = people
    sample = embed(people, one=Variant(embeddings=1), three=Variant(), fresh=Variant(decay_per_day=0.25))
    _, first = np.unique(sample["three"].user_ids, return_index=True)
    np.testing.assert_array_equal(sample["one"].medoid_rows, sample["three"].medoid_rows[first])
    assert not np.array_equal(sample["fresh"].medoid_rows, sample["three"].medoid_rows)
    other = embed_users(users, rows, ages, *pins, ALPHA, {"three": Variant()}, (3, 739_001))["three"]
    assert not np.array_equal(other.medoid_rows, sample["three"].medoid_rows)


def test_representations_are_compared_on_the_same_sampled_clusters(people):
    result = embed(people, **VARIANTS)
    for name in ("pinnersage_centroid", "pinnersage_decayed_centroid"):
        np.testing.assert_array_equal(result[name].medoid_rows, result["pinnersage"].medoid_rows)
        assert not np.array_equal(result[name].vectors, result["pinnersage"].vectors)


def test_results_depend_neither_on_other_users_nor_on_other_variants_nor_on_the_order_of_actions(people):
    (users, rows, ages), pins = people
    together = embed(people, **VARIANTS)
    order = np.random.default_rng(1).permutation(len(users))
    shuffled = embed_users(users[order], rows[order], ages[order], *pins, ALPHA, VARIANTS, KEYS)
    for name, variant in VARIANTS.items():
        assert_same(shuffled[name], together[name])
        assert_same(embed(people, it=variant)["it"], together[name])
        np.testing.assert_allclose(np.linalg.norm(together[name].vectors, axis=1), 1, atol=1e-6)
    for user in [-5, 17, 2**62, *users[:5].tolist()]:
        own = users == user
        alone = embed_users(users[own], rows[own], ages[own], *pins, ALPHA, VARIANTS, KEYS)
        for name, result in together.items():
            theirs = result.user_ids == user
            expected = [getattr(result, field)[theirs] for field in Embeddings.__dataclass_fields__]
            assert_same(alone[name], Embeddings(*expected))


def test_what_variants_share_is_computed_once(people, monkeypatch):
    calls = Counter()

    def count(name, key):
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args: (calls.update([key(args)]), function(*args))[1])

    count("_cluster", lambda args: args[0])
    count("decay_averages", lambda args: ("average", args[4]))
    count("find_medoids", lambda args: "medoids")
    embed(people, **VARIANTS, again=Variant(), mean=Variant(representation="centroid", decay_per_day=0.1))
    assert calls == {
        "ward": 1, "k_means": 1, "complete_linkage": 1, "all": 1, "medoids": 5,
        # Of all pins together with four λ, and of Ward's clusters with three; and decayed medoids.
        ("average", 0.0): 2, ("average", 0.01): 2, ("average", 0.1): 2, ("average", 0.25): 1,
    }  # fmt: skip


def test_users_with_one_pin_or_copies_of_one_have_one_embedding_in_every_variant(people):
    _, (_, vectors) = people
    for name, result in embed(people, **VARIANTS).items():
        copies = () if name in ("last_20_pins", "all_pins") else ((17, 192, 8),)
        for user, row, actions in ((-5, 3, 1), (2**62, 4, 2), *copies):
            (own,) = np.flatnonzero(result.user_ids == user)
            np.testing.assert_allclose(result.vectors[own], vectors[row], atol=1e-6)
            assert result.medoid_rows[own] == row or (name == "last_pin" and user == 17)
            if name == "pinnersage_decay_0":
                assert result.importances[own] == actions


@pytest.mark.parametrize(("alpha", "expected"), [(0.0, 4), (np.inf, 1)])
def test_alpha_at_its_ends(alpha, expected):
    vectors = np.concatenate([np.eye(4, dtype=np.float32)] * 2)
    variants = {name: replace(ALL, clustering=name) for name in ("ward", "complete_linkage")}
    result = embed_users(np.zeros(8, int), np.arange(8), np.zeros(8), np.arange(8), vectors, alpha, variants, KEYS)
    assert [len(result[name].user_ids) for name in variants] == [expected, expected]


@pytest.mark.parametrize("clustering", ["ward", "complete_linkage"])
def test_a_variant_with_its_own_alpha_is_as_in_a_population_of_that_alpha(people, clustering):
    (users, rows, ages), pins = people
    for representation in ("medoid", "centroid"):
        variant = Variant(clustering, representation, selection="top", embeddings=None)
        own = {"its": replace(variant, alpha=0.3), "other": variant}
        found = embed_users(users, rows, ages, *pins, ALPHA, own, KEYS)
        expected = embed_users(users, rows, ages, *pins, 0.3, {"it": variant}, KEYS)["it"]
        assert_same(found["its"], expected)
        assert len(found["other"].user_ids) != len(expected.user_ids)


def test_where_pins_cancel_out_the_medoid_stands_in_for_their_mean():
    vectors = np.float32([[1, 0], [-1, 0]])
    variant = {"it": Variant(representation="centroid")}
    result = embed_users(np.zeros(2, int), np.arange(2), np.zeros(2), np.arange(2), vectors, 9.0, variant, KEYS)["it"]
    np.testing.assert_array_equal(result.vectors, vectors[:1])


def test_nobody_gives_nothing():
    nobody = np.empty(0, np.int64)
    result = embed_users(nobody, nobody, np.empty(0), np.arange(3), np.eye(3, dtype=np.float32), 1.0, VARIANTS, KEYS)
    for embeddings in result.values():
        assert embeddings.vectors.shape == (0, 3)
        assert len(embeddings.user_ids) == len(embeddings.importances) == len(embeddings.medoid_rows) == 0
    assert set(result) == set(VARIANTS)


def test_the_papers_rows_are_all_there_and_differ_from_pinnersage_in_what_they_name():
    assert VARIANTS["pinnersage"] == Variant("ward", "medoid", 0.01, "sampled", 3)
    assert len(set(VARIANTS.values())) == len(VARIANTS)
    for decay_per_day in (0.0, 0.1):
        assert VARIANTS[f"pinnersage_decay_{decay_per_day:g}"] == Variant(decay_per_day=decay_per_day)
    assert VARIANTS["decay_average"].decay_per_day == 0.01


def test_the_latest_are_those_acted_on_last(people):
    (users, rows, ages), _ = people
    found = embed(people, last=VARIANTS["last_pin"], some=VARIANTS["last_20_pins"], every=VARIANTS["all_pins"])
    for user in set(users.tolist()):
        own = users == user
        last = {row: ages[own & (rows == row)].min() for row in set(rows[own].tolist())}
        order = sorted(last, key=lambda row: (last[row], row))
        for name, expected in (("last", order[:1]), ("some", order[:20]), ("every", order)):
            assert found[name].medoid_rows[found[name].user_ids == user].tolist() == expected


def test_all_together_is_the_decay_average_of_all_actions(people):
    (users, rows, ages), (_, vectors) = people
    found = embed(people, it=VARIANTS["decay_average_0.1"])["it"]
    for user, vector in zip(found.user_ids, found.vectors, strict=True):
        own = users == user
        total = (np.exp(-0.1 * ages[own])[:, None] * vectors[rows[own]].astype(np.float64)).sum(axis=0)
        np.testing.assert_allclose(vector, total / np.linalg.norm(total), atol=1e-6)
    assert len(found.user_ids) == len(set(users.tolist()))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("clustering", "kmeans", "^clustering must be one of ward, k_means, complete_linkage, pins, all, not 'kmeans'"),
        ("representation", "mean", "^representation must be one of medoid, decayed_medoid, centroid, .*, not 'mean'"),
        ("selection", "all", "^selection must be one of sampled, top, latest, not 'all'"),
        ("shares", "fair", "^shares must be one of equal, importance, not 'fair'"),
        ("embeddings", True, "^embeddings must be an integer >= 1, or None for all, not True"),
        ("decay_per_day", -0.1, "^decay_per_day must be a finite number >= 0, not -0.1"),
        ("decay_per_day", np.inf, "^decay_per_day must be a finite number >= 0, not inf"),
        ("embeddings", 0, "^embeddings must be an integer >= 1, or None for all, not 0"),
        ("embeddings", 2.5, "^embeddings must be an integer >= 1, or None for all, not 2.5"),
        ("alpha", -0.1, "^alpha must be a number >= 0, or None, not -0.1"),
    ],
)
def test_impossible_variants_are_refused_by_field(field, value, message):
    with pytest.raises(ValueError, match=message):
        Variant(**{field: value})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"user_ids": np.array([1.0, 2.0])}, "^user_ids must be integers, one an age"),
        ({"user_ids": np.array([1])}, "^user_ids must be integers, one an age"),
        ({"pin_rows": np.array([0])}, "^pin_rows must be integers, one an age"),
        ({"pin_rows": np.array([0, 3])}, "^pin_rows must be rows of vectors, 0 to 2"),
        ({"pin_rows": np.array([-1, 0])}, "^pin_rows must be rows of vectors, 0 to 2"),
        ({"ages": np.array([0.0, -1.0])}, "^ages must be finite days >= 0"),
        ({"ages": np.array([0.0, np.nan])}, "^ages must be finite days >= 0"),
        ({"pin_ids": np.array([1, 2])}, "^pin_ids must be 3 ascending integers"),
        ({"pin_ids": np.array([1, 3, 2])}, "^pin_ids must be 3 ascending integers"),
        ({"pin_ids": np.array([1, 2, 2])}, "^pin_ids must be 3 ascending integers"),
        ({"vectors": np.eye(3)}, "^vectors must be finite float32 of shape"),
        ({"vectors": np.full((3, 3), np.nan, np.float32)}, "^vectors must be finite float32 of shape"),
        ({"vectors": np.ones(3, np.float32)}, "^vectors must be finite float32 of shape"),
        ({"alpha": -1.0}, "^alpha must be a number >= 0"),
        ({"alpha": np.nan}, "^alpha must be a number >= 0"),
    ],
)
def test_bad_input_is_refused_by_name(changed, message):
    good = {
        "user_ids": np.array([1, 2]),
        "pin_rows": np.array([0, 1]),
        "ages": np.array([0.0, 1.0]),
        "pin_ids": np.array([1, 2, 3]),
        "vectors": np.eye(3, dtype=np.float32),
        "alpha": 1.0,
    }
    embed_users(**good, variants=VARIANTS, keys=KEYS)
    with pytest.raises(ValueError, match=message):
        embed_users(**good | changed, variants=VARIANTS, keys=KEYS)
