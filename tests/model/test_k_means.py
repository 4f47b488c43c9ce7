import numpy as np
import pytest

from pinnersage_assets.model.k_means import k_means, k_means_from


def points_of(rng, n, groups, d=8):
    return (rng.standard_normal((groups, d))[rng.integers(groups, size=n)] + 0.3 * rng.standard_normal((n, d))).astype(
        np.float32
    )


def means_of(points, counts, labels):
    return np.array(
        [np.average(points[labels == k], axis=0, weights=counts[labels == k]) for k in range(max(labels) + 1)]
    )


def nearest(points, centroids):
    return [min(range(len(centroids)), key=lambda k: float(((point - centroids[k]) ** 2).sum())) for point in points]


@pytest.mark.parametrize("seed", range(5))
def test_every_point_is_nearest_to_the_mean_of_its_cluster(seed):
    rng = np.random.default_rng(seed)
    points, counts = points_of(rng, 60, 5), rng.integers(1, 6, size=60)
    labels = k_means(points, counts, 3, 0.25)
    assert set(labels.tolist()) == {0, 1, 2}
    assert labels.tolist() == nearest(points, means_of(points.astype(np.float64), counts, labels))


def test_what_is_random_comes_from_the_uniform_number():
    points, counts = np.random.default_rng(0).standard_normal((200, 8)).astype(np.float32), np.ones(200, np.int64)
    found = [k_means(points, counts, 5, uniform).tolist() for uniform in (0.1, 0.1, 0.9)]
    assert found[0] == found[1]
    assert found[0] != found[2]


@pytest.mark.parametrize(
    ("copies", "labels"), [([], []), ([7], [0]), ([7, 2, 7, 7, 2], [0, 1, 0, 0, 1]), ([4, 5, 4, 6], [0, 1, 0, 2])]
)
def test_few_different_vectors_are_clusters_of_their_own(copies, labels):
    vectors = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    found = k_means(vectors[np.array(copies, dtype=int)], np.ones(len(copies), np.int64), 3, 0.5)
    assert found.tolist() == labels


@pytest.mark.parametrize("seed", range(5))
def test_centroids_move_to_the_means_of_what_is_nearest_to_them(seed):
    rng = np.random.default_rng(seed)
    points = points_of(rng, 60, 5).astype(np.float64)
    # As with the first half, to which more points come.
    half = k_means(points[:30], np.ones(30, np.int64), 3, 0.5)
    centroids = k_means_from(points, means_of(points[:30], np.ones(30), half))
    labels = np.array(nearest(points, centroids))
    np.testing.assert_allclose(centroids, means_of(points, np.ones(60), labels), atol=1e-12)


def test_centroids_that_need_not_move_stay():
    points = np.array([[0.0, 0], [0, 2], [9, 0], [9, 2]])
    np.testing.assert_allclose(k_means_from(points, np.array([[9.0, 1], [0, 1]])), [[9, 1], [0, 1]])
