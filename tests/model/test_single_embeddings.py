import math

import numpy as np
import pytest

from pinnersage_assets.model.single_embeddings import decay_averages


def unit_vectors(rng, n, d):
    vectors = rng.standard_normal((n, d))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("decay_per_day", [0.0, 0.01, 0.5])
def test_averages_are_those_of_a_loop(decay_per_day):
    rng = np.random.default_rng(0)
    vectors, offsets = unit_vectors(rng, 30, 8), np.array([0, 1, 4, 40, 41])
    rows, ages = rng.integers(30, size=41), rng.uniform(0, 90, 41)
    found = decay_averages(vectors, rows, ages, offsets, decay_per_day)
    assert found.dtype == np.float32
    for user in range(4):
        total = np.zeros(8)
        for action in range(offsets[user], offsets[user + 1]):
            total += math.exp(-decay_per_day * ages[action]) * vectors[rows[action]].astype(np.float64)
        np.testing.assert_allclose(found[user], total / np.linalg.norm(total), atol=1e-6)


def test_old_actions_do_not_underflow():
    vectors = np.eye(2, dtype=np.float32)
    found = decay_averages(vectors, np.array([0, 1]), np.array([1e6, 1e6 + 1]), np.array([0, 2]), 1.0)
    expected = np.array([1, math.exp(-1)])
    np.testing.assert_allclose(found[0], expected / np.linalg.norm(expected), atol=1e-6)


def test_pins_that_cancel_out_give_a_zero_vector():
    vectors = np.array([[1, 0], [-1, 0]], dtype=np.float32)
    np.testing.assert_array_equal(
        decay_averages(vectors, np.array([0, 1]), np.zeros(2), np.array([0, 2]), 0.01), [[0, 0]]
    )


def test_nobody_gives_nothing():
    nothing = np.empty(0, dtype=np.int64)
    assert decay_averages(np.eye(3, dtype=np.float32), nothing, np.empty(0), np.array([0]), 0.01).shape == (0, 3)
