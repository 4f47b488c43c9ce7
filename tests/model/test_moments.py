"""Users at moments of a day: against one user and one moment at a time, and against the definitions of the indices."""

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from pinnersage_assets.model.moments import (
    Moments,
    adjusted_rand_index,
    medoid_overlap,
    reclustered,
    sampled_at_moments,
    updated_online,
)
from pinnersage_assets.model.online import StoredClusters, update_clusters
from pinnersage_assets.model.variants import Clusters, UserEmbeddings, Variant

ALPHA, KEYS = 0.6, (3, 739_000)
USERS = np.array([-5, 2, 7, 90])


@pytest.fixture(scope="module")
def case():
    """Four users, of whom one has no moment; of some moments nothing came before, of some more than 4 actions."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((8, 16))[rng.integers(8, size=60)] + 0.4 * rng.standard_normal((60, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    pin_ids = np.sort(rng.choice(10**9, size=60, replace=False))
    known = USERS[rng.integers(4, size=90)], rng.integers(60, size=90), rng.uniform(0, 30, size=90)
    user_ids = np.repeat(USERS[[0, 1, 3]], [2, 3, 4])
    days_since = np.array([0.1, 0.6, 0.2, 0.5, 0.9, 0.3, 0.4, 0.7, 0.8])
    actions = []
    for moment, now in enumerate(days_since):
        times = np.sort(rng.uniform(0, now, size=[0, 3, 0, 1, 2, 4, 5, 9, 0][moment]))[::-1]
        actions += [(moment, int(rng.integers(60)), now - time) for time in times]
    moments = Moments(user_ids, days_since, *(np.array(column) for column in zip(*actions, strict=True)))
    population = UserEmbeddings(*known, pin_ids, vectors, ALPHA, KEYS)
    return SimpleNamespace(known=known, moments=moments, population=population, pin_ids=pin_ids, vectors=vectors)


def both_models(population, moments, variant):
    return updated_online(population, moments, variant, 4), reclustered(population, moments, variant)


def cluster_sets(clusters, user):
    """The clusters of a user: the medoid, the size, the importance and the members of each."""
    found = []
    for cluster in np.flatnonzero(clusters.user_ids == user):
        own = (clusters.point_clusters == cluster) & (clusters.point_users == user)
        members = frozenset(clusters.point_rows[own].tolist())
        numbers = int(clusters.sizes[cluster]), round(float(clusters.importances[cluster]), 9)
        found.append((int(clusters.medoid_rows[cluster]), *numbers, members))
    return found


def test_clustering_anew_is_clustering_the_actions_up_to_the_moment(case):
    moments, variant = case.moments, Variant(decay_per_day=0.1)
    found = reclustered(case.population, moments, variant)
    assert set(found.user_ids) == set(range(9))
    for moment, (user, now) in enumerate(zip(moments.user_ids, moments.days_since, strict=True)):
        own, since = case.known[0] == user, moments.action_moments == moment
        rows = np.append(case.known[1][own], moments.pin_rows[since])
        ages = np.append(case.known[2][own] + now, moments.ages[since])
        alone = UserEmbeddings(np.full(len(rows), user), rows, ages, case.pin_ids, case.vectors, ALPHA, KEYS)
        assert cluster_sets(found, moment) == cluster_sets(alone.clusters(variant), user)


def test_the_online_model_takes_the_latest_actions_of_each_moment(case):
    moments, variant = case.moments, Variant(decay_per_day=0.1)
    found, stored = updated_online(case.population, moments, variant, 4), case.population.clusters(variant)
    for moment, (user, now) in enumerate(zip(moments.user_ids, moments.days_since, strict=True)):
        own = stored.user_ids == user
        since = np.flatnonzero(moments.action_moments == moment)[:4]
        rows, medoids = moments.pin_rows[since], stored.medoid_rows[own]
        expected = update_clusters(
            StoredClusters(case.pin_ids[medoids], stored.sizes[own], stored.importances[own]),
            case.vectors[medoids],
            case.pin_ids[rows],
            case.vectors[rows],
            moments.ages[since],
            now,
            ALPHA,
            0.1,
        )
        sets = cluster_sets(found, moment)
        assert [case.pin_ids[medoid] for medoid, *_ in sets] == expected.medoid_pin_ids.tolist()
        assert [size for _, size, *_ in sets] == expected.sizes.tolist()
        assert [weight for _, _, weight, _ in sets] == pytest.approx(expected.importances.tolist())
        cluster_of = {pin: number for number, (*_, members) in enumerate(cluster_sets(stored, user)) for pin in members}
        cluster_of |= dict(zip(rows.tolist(), expected.labels.tolist(), strict=True))
        assert {pin: number for number, (*_, members) in enumerate(sets) for pin in members} == cluster_of


def test_who_did_nothing_since_has_the_clusters_and_the_draws_of_the_batch(case):
    moments, variant = case.moments, Variant(embeddings=2)
    before = case.population.select(variant, KEYS)
    for clusters in (
        updated_online(case.population, moments, variant, 4),
        reclustered(case.population, moments, variant),
    ):
        drawn = sampled_at_moments(clusters, case.population, moments, 2, KEYS)
        np.testing.assert_array_equal(drawn.vectors, case.vectors[drawn.medoid_rows])
        assert (np.bincount(drawn.user_ids) == 2).all()
        for moment in np.flatnonzero(moments.actions_before == 0):
            own = drawn.medoid_rows[drawn.user_ids == moment]
            assert own.tolist() == before.medoid_rows[before.user_ids == moments.user_ids[moment]].tolist()


def test_moments_of_nobody_have_no_clusters(case):
    nothing = Moments(*(np.empty(0, kind) for kind in (int, float, int, int, float)))
    for clusters in (
        updated_online(case.population, nothing, Variant(), 4),
        reclustered(case.population, nothing, Variant()),
    ):
        assert len(clusters.user_ids) == len(clusters.point_rows) == 0


# --- Agreement


def clustering(labels_of_users, pins_of_users):
    """Clusters of users 0, 1, ... from the labels of their pins."""
    users = np.repeat(np.arange(len(labels_of_users)), list(map(len, labels_of_users)))
    labels = np.concatenate([np.asarray(some, dtype=int) for some in labels_of_users])
    pairs, numbers = np.unique(np.stack([users, labels], axis=1), axis=0, return_inverse=True)
    rows = np.concatenate([np.asarray(some, dtype=int) for some in pins_of_users])
    medoids = np.array([rows[numbers == number].min() for number in range(len(pairs))])
    nothing = np.zeros(len(pairs))
    return Clusters(pairs[:, 0], medoids, nothing, nothing, users, rows, numbers)


def test_the_adjusted_rand_index_is_that_of_scikit_learn():
    rng = np.random.default_rng(1)
    one, other, expected = [], [], []
    for user in range(40):
        pins = np.sort(rng.choice(100, size=int(rng.integers(1, 30)), replace=False))
        labels = [rng.integers(rng.integers(1, 12), size=len(pins)) for _ in range(2)]
        if user < 10:
            labels[1] = labels[0] + 1
        # Some pins are known to one alone.
        kept = [np.sort(rng.choice(len(pins), size=len(pins) - (len(pins) > 9), replace=False)) for _ in range(2)]
        both = np.intersect1d(*kept)
        expected.append(adjusted_rand_score(labels[0][both], labels[1][both]))
        one.append((labels[0][kept[0]], pins[kept[0]]))
        other.append((labels[1][kept[1]], pins[kept[1]]))
    clusterings = (clustering(*zip(*some, strict=True)) for some in (one, other))
    np.testing.assert_allclose(adjusted_rand_index(*clusterings, 40), expected, atol=1e-12)


@pytest.mark.parametrize(
    ("one", "other", "index"), [([0], [0], 1), ([0, 0], [0, 0], 1), ([0, 1], [0, 1], 1), ([0, 0, 0], [0, 1, 2], 0)]
)
def test_where_nothing_can_differ_clusterings_agree(one, other, index):
    pins = [range(len(one))]
    assert adjusted_rand_index(clustering([one], pins), clustering([other], pins), 1).tolist() == [index]


def test_the_overlap_of_medoids_is_the_jaccard_index():
    one = clustering([[0, 1, 2], [0, 0]], [[10, 20, 30], [10, 40]])
    other = clustering([[0, 0, 1], [0, 1]], [[10, 20, 30], [10, 40]])
    # Of user 0 {10, 20, 30} and {10, 30}, of user 1 {10} and {10, 40}, of user 2 nothing.
    np.testing.assert_allclose(medoid_overlap(one, other, 3), [2 / 3, 1 / 2, 1])
