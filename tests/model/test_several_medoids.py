"""Several medoids of a cluster, against the greedy definition written out and against examples worked by hand."""

import math

import numpy as np
import pytest

from pinnersage_assets.model.medoids import medoids
from pinnersage_assets.model.several_medoids import several_medoids


def chosen_by_definition(points, pin_ids, counts, actions_per_medoid):
    """The positions of one cluster's medoids in order of choice: every sum over all members, in plain loops."""

    def total(of):
        return sum(
            n * min(math.dist(x, points[m]) ** 2 for m in of) for x, n in zip(points.tolist(), counts, strict=True)
        )

    wanted = min(len(points), math.ceil(counts.sum() / actions_per_medoid))
    chosen = []
    while len(chosen) < wanted:
        totals = {m: total([*chosen, m]) for m in range(len(points)) if m not in chosen}
        if chosen and min(totals.values()) >= total(chosen) * (1 - 1e-12):
            break
        least = min(totals.values())
        chosen.append(min((m for m in totals if totals[m] <= least * (1 + 1e-9)), key=lambda m: pin_ids[m]))
    return chosen


def random_clusters(seed):
    """Points of 12 clusters of 1 to 25 members in random order, with counts."""
    rng = np.random.default_rng(seed)
    clusters = rng.permutation(np.repeat(np.arange(12), rng.integers(1, 26, size=12)))
    points = rng.standard_normal((len(clusters), 5)).astype(np.float32)
    pin_ids = rng.choice(10**12, len(clusters), replace=False)
    return points, pin_ids, clusters, rng.integers(1, 6, size=len(clusters))


@pytest.mark.parametrize(("seed", "actions_per_medoid"), [(0, 5), (1, 10), (2, 17), (3, 30)])
def test_medoids_are_those_of_the_greedy_definition_and_members_belong_to_the_nearest(seed, actions_per_medoid):
    points, pin_ids, clusters, counts = random_clusters(seed)
    found = several_medoids(points, pin_ids, clusters, actions_per_medoid, counts)
    assert found.dtype == np.int64
    for cluster in range(12):
        rows = np.flatnonzero(clusters == cluster)
        chosen = chosen_by_definition(points[rows], pin_ids[rows], counts[rows], actions_per_medoid)
        squared = ((points[rows][:, None] - points[rows][chosen].astype(np.float64)) ** 2).sum(axis=2)
        np.testing.assert_array_equal(found[rows], rows[chosen][squared.argmin(axis=1)])
    assert len(set(found)) > 12


def test_a_cluster_gets_a_medoid_for_every_so_many_actions_but_no_more_than_members():
    points = np.float32([[0], [1], [3], [7], [20]])
    for actions, actions_per_medoid, expected in ((2, 10, 1), (2, 9, 2), (1, 1, 5), (2, 1, 5), (1, 2, 3), (1, 5, 1)):
        found = several_medoids(points, np.arange(5), np.zeros(5, int), actions_per_medoid, np.full(5, actions))
        assert len(set(found)) == expected
    # Which member has the actions does not matter to how many medoids there are.
    assert len(set(several_medoids(points, np.arange(5), np.zeros(5, int), 3, np.uint32([1, 1, 1, 1, 3])))) == 3


def test_small_clusters_keep_their_one_medoid():
    points, pin_ids, clusters, counts = random_clusters(4)
    alone = medoids(points, pin_ids, clusters, counts)
    np.testing.assert_array_equal(several_medoids(points, pin_ids, clusters, 1000, counts), alone[clusters])
    # Without counts, members are counted.
    np.testing.assert_array_equal(
        several_medoids(points, pin_ids, clusters, 25), medoids(points, pin_ids, clusters)[clusters]
    )


def test_two_groups_get_a_medoid_each_and_the_weightier_one_goes_first():
    points = np.float32([[0], [1], [2], [10], [11], [12]])
    ids, one = np.arange(6), np.zeros(6, int)
    # Mean 6: 2 and 10 tie, the smaller id is the ordinary medoid; 11 then lowers the sum the most.
    np.testing.assert_array_equal(several_medoids(points, ids, one, 3), [2, 2, 2, 4, 4, 4])
    # With 95 actions on pin 5 the mean is 11.64 and so pin 5 the medoid; of the rest, 1 lowers the sum the most.
    np.testing.assert_array_equal(several_medoids(points, ids, one, 50, [1, 1, 1, 1, 1, 95]), [1, 1, 1, 5, 5, 5])


def test_members_equally_near_two_medoids_belong_to_the_earlier():
    # The medoid is 0; then 4 and -4 lower the sum by as much, and the smaller id wins. 2 is as near to 4 as to 0.
    points = np.float32([[0], [4], [-4], [2], [-2]])
    np.testing.assert_array_equal(several_medoids(points, [1, 2, 3, 4, 5], [0] * 5, 3), [0, 1, 0, 0, 0])
    np.testing.assert_array_equal(several_medoids(points, [1, 3, 2, 4, 5], [0] * 5, 3), [0, 0, 2, 0, 0])


def test_gains_within_a_millionth_are_ties_and_others_are_not():
    def second(excess):
        # The medoid is the middle one; the outer two lower the sum by 1 and by 1 + excess.
        points = np.array([[0.0], [1.0], [-math.sqrt(1 + excess)]])
        return several_medoids(points, [5, 1, 2], [0, 0, 0], 50, [98, 1, 1])

    np.testing.assert_array_equal(second(0.5e-6), [0, 1, 0])
    np.testing.assert_array_equal(second(2e-6), [0, 0, 2])


def test_copies_get_no_medoid_of_their_own():
    rng = np.random.default_rng(5)
    same = np.repeat(rng.standard_normal((1, 64)), 30, axis=0).astype(np.float32)
    ids = rng.permutation(30)
    np.testing.assert_array_equal(several_medoids(same, ids, np.zeros(30, int), 1), np.full(30, ids.argmin()))
    three = np.repeat(rng.standard_normal((3, 64)), 10, axis=0).astype(np.float32)
    found = several_medoids(three, ids, np.zeros(30, int), 2)
    smallest = 10 * np.arange(3) + ids.reshape(3, 10).argmin(axis=1)
    np.testing.assert_array_equal(found, np.repeat(smallest, 10))


def test_result_does_not_depend_on_the_order_of_rows_nor_on_other_clusters():
    points, pin_ids, clusters, counts = random_clusters(6)
    points = np.round(points).astype(np.float32)  # ties
    expected = pin_ids[several_medoids(points, pin_ids, clusters, 8, counts)]
    order = np.random.default_rng(7).permutation(len(points))
    shuffled = several_medoids(points[order], pin_ids[order], clusters[order], 8, counts[order])
    np.testing.assert_array_equal(pin_ids[order][shuffled], expected[order])
    for cluster in range(12):
        own = clusters == cluster
        alone = several_medoids(points[own], pin_ids[own], np.zeros(own.sum(), int), 8, counts[own])
        np.testing.assert_array_equal(pin_ids[own][alone], expected[own])


def test_every_medoid_belongs_to_itself():
    points, pin_ids, clusters, counts = random_clusters(8)
    points = np.round(points).astype(np.float32)
    found = several_medoids(points, pin_ids, clusters, 4, counts)
    np.testing.assert_array_equal(found[found], found)
    np.testing.assert_array_equal(clusters[found], clusters)
    assert len(set(found)) > 24


def test_nothing_in_gives_nothing_out():
    nothing = np.empty(0, dtype=np.int64)
    assert several_medoids(np.empty((0, 3), np.float32), nothing, nothing, 5).shape == (0,)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"actions_per_medoid": 0}, "^actions_per_medoid must be an integer >= 1, not 0"),
        ({"actions_per_medoid": 2.5}, "^actions_per_medoid must be an integer >= 1, not 2.5"),
        ({"points": np.full((2, 2), np.nan)}, "^points must be finite"),
        ({"pin_ids": [1]}, "^pin_ids must be 2 integers"),
        ({"clusters": [0, 2]}, "^clusters must be 0, 1, 2, ... without gaps"),
        ({"counts": [0, 1]}, "^counts must be integers >= 1"),
    ],
)
def test_bad_input_is_refused_by_name(changed, message):
    good = {"points": np.zeros((2, 2)), "pin_ids": [1, 2], "clusters": [0, 0], "actions_per_medoid": 2}
    several_medoids(**good)
    with pytest.raises(ValueError, match=message):
        several_medoids(**good | changed)
