"""Ward's labels against scipy's dendrogram and the paper's Algorithm 1."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage

from pinnersage_assets.model.ward import lance_williams, ward, ward_many, ward_reference


def in_order_of_appearance(labels):
    names = {}
    return np.array([names.setdefault(label, len(names)) for label in labels], dtype=np.int32)


def merge_distances(points):
    """The paper's distances of all merges: squares of scipy's heights."""
    return linkage(points.astype(np.float64), "ward")[:, 2] ** 2 if len(points) > 1 else np.zeros(0)


def scipy_ward(points, alpha):
    if len(points) < 2:
        return np.zeros(len(points), dtype=np.int32)
    heights = linkage(points.astype(np.float64), "ward")
    return in_order_of_appearance(fcluster(heights, np.sqrt(alpha), "distance"))


def is_a_matter_of_rounding(points, alpha):
    distances = merge_distances(points)
    return bool(np.any(np.abs(distances - alpha) <= 1e-5 * alpha))


def blobs(rng, m, d):
    centres = rng.standard_normal((rng.integers(1, 12), d))
    return centres[rng.integers(len(centres), size=m)] + rng.uniform(0.01, 0.5) * rng.standard_normal((m, d))


def unit_vectors(rng, m, d):
    points = blobs(rng, m, d)
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def duplicates(rng, m, d):
    return blobs(rng, m, d)[rng.integers(max(1, m // 2), size=m)]


def far_from_origin(rng, m, d):
    return blobs(rng, m, d) + 10.0 ** rng.integers(1, 5)


def tight_groups_far_apart(rng, m, d):
    """Groups so far apart that the norms' last bits in float64 are larger than the distances within a group."""
    points = 1e-3 * rng.standard_normal((m, d))
    points[:, 0] = 1e6 * rng.integers(0, 3, size=m)
    return points


def chain(rng, m, d):
    """Points on a line at growing intervals: few mutual nearest neighbours, so many rounds."""
    return np.cumsum(1.0 + 0.01 * np.arange(m) + 1e-3 * rng.random(m))[:, None] * np.ones(d)


KINDS = [blobs, unit_vectors, duplicates, far_from_origin, tight_groups_far_apart, chain]


def random_case(seed, largest=300):
    rng = np.random.default_rng(seed)
    kind = KINDS[seed % len(KINDS)]
    m = int(rng.integers(1, largest + 1))
    d = int(rng.choice([2, 3, 8, 32, 256]))
    points = kind(rng, m, d).astype(np.float32)
    # Anything from "nothing merges" to "all is one", mostly in the middle of the dendrogram.
    distances = np.append(merge_distances(points), 1.0)
    alpha = float(rng.choice(distances) * 10.0 ** rng.uniform(-0.5, 0.5)) or 1e-9
    return rng, points, alpha


def test_labels_are_those_of_scipys_dendrogram_cut_at_alpha():
    left_out = 0
    n_cases = 600
    for seed in range(n_cases):
        _, points, alpha = random_case(seed)
        if is_a_matter_of_rounding(points, alpha):
            left_out += 1
            continue
        labels = ward(points, alpha)
        assert labels.dtype == np.int32
        np.testing.assert_array_equal(labels, scipy_ward(points, alpha), err_msg=f"seed {seed}, alpha {alpha}")
    assert left_out < 0.02 * n_cases


def test_labels_are_those_of_the_papers_algorithm():
    left_out = 0
    n_cases = 150
    for seed in range(n_cases):
        _, points, alpha = random_case(seed, largest=70)
        if is_a_matter_of_rounding(points, alpha):
            left_out += 1
            continue
        np.testing.assert_array_equal(ward(points, alpha), ward_reference(points, alpha), err_msg=f"seed {seed}")
    assert left_out < 0.02 * n_cases


def test_a_count_is_as_many_copies_of_the_point():
    compared = 0
    for seed in range(200):
        rng, points, alpha = random_case(seed, largest=100)
        counts = rng.integers(1, 6, size=len(points))
        copies = np.repeat(points, counts, axis=0)
        if is_a_matter_of_rounding(copies, alpha):
            continue
        first_copies = np.cumsum(counts) - counts
        labels = ward(points, alpha, counts)
        np.testing.assert_array_equal(labels, scipy_ward(copies, alpha)[first_copies], err_msg=f"seed {seed}")
        np.testing.assert_array_equal(labels, ward(copies, alpha)[first_copies], err_msg=f"seed {seed}")
        compared += 1
    assert compared > 190


def test_the_partition_does_not_depend_on_the_order_of_the_points():
    for seed in range(60):
        rng, points, alpha = random_case(seed, largest=120)
        if is_a_matter_of_rounding(points, alpha):
            continue
        order = rng.permutation(len(points))
        expected = in_order_of_appearance(ward(points, alpha)[order])
        np.testing.assert_array_equal(ward(points[order], alpha), expected, err_msg=f"seed {seed}")


def test_a_users_labels_do_not_depend_on_the_batch():
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 80, size=40)
    lengths[[0, 7, 39]] = 0
    # Whole numbers make ties everywhere: these, too, must be broken alike.
    users = [np.round(3 * rng.standard_normal((length, 5))).astype(np.float32) for length in lengths]
    counts = [rng.integers(1, 4, size=length) for length in lengths]
    for order in (np.arange(40), rng.permutation(40)):
        offsets = np.concatenate([[0], np.cumsum(lengths[order])])
        labels = ward_many(
            np.concatenate([users[u] for u in order]),
            offsets,
            9.0,
            np.concatenate([counts[u] for u in order]),
        )
        alone = np.concatenate([ward(users[u], 9.0, counts[u]) for u in order])
        np.testing.assert_array_equal(labels, alone)
        assert labels.dtype == np.int32


def test_alpha_infinity_makes_one_cluster():
    for seed in range(30):
        rng, points, _ = random_case(seed)
        assert not ward(points, np.inf).any()
        many_ties = rng.integers(0, 5, size=(100, 3)).astype(np.float32)
        assert not ward(many_ties, np.inf, rng.integers(1, 9, size=100)).any()


def test_alpha_zero_merges_identical_points_and_no_others():
    rng = np.random.default_rng(1)
    for offset in (0.0, 1.0, 1e6):
        distinct = (offset + 1e-3 * rng.standard_normal((40, 8))).astype(np.float32)
        neighbour = distinct[:1].copy()
        neighbour[0, 3] = np.nextafter(neighbour[0, 3], np.float32(np.inf))
        choice = rng.integers(41, size=200)
        points = np.concatenate([distinct, neighbour])[choice]
        expected = in_order_of_appearance(np.unique(points, axis=0, return_inverse=True)[1])
        np.testing.assert_array_equal(ward(points, 0), expected)
        np.testing.assert_array_equal(ward(points, 0, rng.integers(1, 9, size=200)), expected)
    np.testing.assert_array_equal(ward(np.zeros((3, 4), dtype=np.float32), 0), [0, 0, 0])
    np.testing.assert_array_equal(ward(np.float32([[0], [1e-45], [3e38], [-3e38]]), 0), [0, 1, 2, 3])


def test_clusters_merge_at_a_distance_of_exactly_alpha():
    # Corners of a simplex: all pairs, and all clusters that form, are at distance 2.
    corners = np.eye(9, dtype=np.float32)
    for algorithm in (ward, ward_reference):
        np.testing.assert_array_equal(algorithm(corners, 2.0), np.zeros(9))
        np.testing.assert_array_equal(algorithm(corners, np.nextafter(2.0, 0.0)), np.arange(9))
    np.testing.assert_array_equal(ward(np.float32([[10], [11], [13]]), 1.0), [0, 0, 1])


def test_of_equal_distances_the_earlier_points_merge_first():
    line = np.float32([[0], [1], [2]])
    np.testing.assert_array_equal(ward(line, 1.0), [0, 0, 1])
    np.testing.assert_array_equal(ward(line[::-1], 1.0), [0, 0, 1])


def test_a_group_far_from_another_is_clustered_as_exactly_as_alone():
    rng = np.random.default_rng(2)
    group = rng.standard_normal((60, 16)).astype(np.float32)
    near = 4096.0 + np.round(group * 256) / 256  # exact in float32
    together = np.concatenate([-1e9 * np.ones((2, 16)), near]).astype(np.float32)
    for alpha in (4.0, 16.0, 64.0):
        np.testing.assert_array_equal(ward(together, alpha)[2:], 1 + scipy_ward(near - 4096.0, alpha))


@example(0.9, 0.9, 1.0, 6, 5, 7)  # Equation 1 rounds below 0.9
@given(
    st.floats(0, 1e6),
    st.floats(0, 1e6),
    st.floats(0, 1),
    st.integers(1, 10_000),
    st.integers(1, 10_000),
    st.integers(1, 10_000),
)
def test_lemma_8_1_a_merged_cluster_is_no_nearer_than_the_nearer_of_its_parts(d_ik, d_jk, share, n_i, n_j, n_k):
    d_ij = share * min(d_ik, d_jk)
    assert lance_williams(d_ik, d_jk, d_ij, n_i, n_j, n_k) >= min(d_ik, d_jk)


def test_equation_1_is_the_distance_between_means():
    def distance(a, b):
        gap = a.mean(axis=0) - b.mean(axis=0)
        return 2 * len(a) * len(b) / (len(a) + len(b)) * gap @ gap

    rng = np.random.default_rng(3)
    for _ in range(50):
        i, j, k = (
            rng.standard_normal((n, 4)) + shift for n, shift in zip(rng.integers(1, 9, 3), (0, 1, 20), strict=True)
        )
        merged = lance_williams(distance(i, k), distance(j, k), distance(i, j), len(i), len(j), len(k))
        assert merged == pytest.approx(distance(np.concatenate([i, j]), k), rel=1e-12)


def test_lemma_8_2_no_cluster_is_twice_on_the_stack_even_among_ties():
    rng = np.random.default_rng(4)
    for _ in range(100):
        points = rng.integers(0, 4, size=(rng.integers(2, 40), 2)).astype(np.float32)
        labels = ward_reference(points, 4.0)  # asserts the lemma at each push
        np.testing.assert_array_equal(labels, in_order_of_appearance(labels))


def test_pins_that_never_merge_are_clusters_of_their_own():
    points = np.float32([[0, 0], [100, 0], [0.1, 0], [-100, 0]])
    for algorithm in (ward, ward_reference):
        np.testing.assert_array_equal(algorithm(points, 1.0), [0, 1, 0, 2])


def test_nothing_in_gives_nothing_out():
    nothing = np.empty((0, 5), dtype=np.float32)
    assert ward(nothing, 1.0).shape == ward_reference(nothing, 1.0).shape == (0,)
    assert ward_many(nothing, [0], 1.0).shape == (0,)
    assert ward_many(nothing, [0, 0, 0], 1.0, np.empty(0, dtype=int)).shape == (0,)


POINTS = np.arange(8, dtype=np.float32).reshape(4, 2)
BROKEN = POINTS.copy()
BROKEN[2, 1] = np.nan
INFINITE = POINTS.copy()
INFINITE[3, 0] = -np.inf


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((BROKEN, 1.0), "^points contain NaN or infinity in row 2"),
        ((INFINITE, 1.0), "^points contain NaN or infinity in row 3"),
        ((np.full((2, 2), 1e300), 1.0), "^points contain NaN or infinity in row 0"),
        ((POINTS[0], 1.0), r"^points must be of shape .* not \(2,\)"),
        ((np.float32(3), 1.0), r"^points must be of shape .* not \(\)"),
        ((POINTS[:, :0], 1.0), r"^points must be of shape .* not \(4, 0\)"),
        ((POINTS, -0.1), "^alpha must be a number >= 0, not -0.1"),
        ((POINTS, np.nan), "^alpha must be a number >= 0, not nan"),
        ((POINTS, 1.0, [1, 2, 3]), "^counts must be 4 integers"),
        ((POINTS, 1.0, [1.0, 2.0, 3.0, 4.0]), "^counts must be 4 integers"),
        ((POINTS, 1.0, [1, 2, 0, 4]), "^counts must be >= 1, not 0 in row 2"),
    ],
)
def test_bad_input_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        ward(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((BROKEN, [0, 1, 1, 4], 1.0), "^points of user 2 contain NaN or infinity in row 2"),
        ((POINTS, [0, 1, 4], 1.0, [1, -3, 1, 1]), "^counts of user 1 must be >= 1, not -3 in row 1"),
        ((POINTS, [0, 4], -1.0), "^alpha must be"),
        ((POINTS, [0, 4], 1.0, None, 0), "^memory_bytes must be >= 1, not 0"),
        ((POINTS, [0, 3, 2, 4], 1.0), "^offsets must not fall: user 1 would own rows 3 to 2"),
        (
            (POINTS, [1, 4], 1.0),
            "^offsets must start at 0 and end at the number of rows, 4, not go from 1 to 4",
        ),
        ((POINTS, [0, 3], 1.0), "^offsets must start at 0 and end"),
        ((POINTS, [], 1.0), "^offsets must be a one-dimensional array"),
        ((POINTS, [0.0, 4.0], 1.0), "^offsets must be a one-dimensional array"),
        ((POINTS, [[0, 4]], 1.0), "^offsets must be a one-dimensional array"),
    ],
)
def test_bad_input_of_many_users_is_refused_by_name_and_user(arguments, message):
    with pytest.raises(ValueError, match=message):
        ward_many(*arguments)
