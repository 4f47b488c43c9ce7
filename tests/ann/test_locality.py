import numpy as np
import pytest

from pinnersage_assets.ann import locality
from pinnersage_assets.ann.locality import nearby_order


def topics(seed: int, m: int, n: int = 32) -> np.ndarray:
    """Unit vectors of 50 topics, in random order."""
    rng = np.random.default_rng(seed)
    vectors = (rng.standard_normal((50, n))[rng.integers(50, size=m)] + 0.5 * rng.standard_normal((m, n))).astype("f4")
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def likeness_of_neighbours(vectors: np.ndarray) -> float:
    return float(np.einsum("mn,mn->m", vectors[1:], vectors[:-1]).mean())


@pytest.mark.parametrize("m", [0, 1, 2, 39, 40, 41, 5000])
def test_every_row_comes_once_and_always_in_the_same_order(m):
    vectors = topics(1, m)
    order = nearby_order(vectors)
    assert order.dtype == np.int64
    assert sorted(order.tolist()) == list(range(m))
    assert np.array_equal(nearby_order(vectors.copy()), order)


@pytest.mark.parametrize("m", [200, 5000])
def test_like_vectors_stand_nearer_to_each_other_than_by_chance(m):
    vectors = topics(2, m)
    ordered = vectors[nearby_order(vectors)]
    assert likeness_of_neighbours(ordered) > likeness_of_neighbours(vectors) + 0.1
    # The larger the better: with a cell for nearly every topic, most neighbours are of the same one.
    if m == 5000:
        assert likeness_of_neighbours(ordered) > 0.6


def test_vectors_that_are_all_the_same_have_an_order_too():
    assert sorted(nearby_order(np.ones((500, 1), np.float32)).tolist()) == list(range(500))


def test_blocks_make_no_difference(monkeypatch):
    vectors = topics(3, 3000)
    whole = nearby_order(vectors)
    monkeypatch.setattr(locality, "_BLOCK", 171)
    # Products of other shapes may round otherwise, where a vector is as near to two centres.
    assert np.mean(nearby_order(vectors) == whole) > 0.9
