"""The share of alike pairs against a loop over pairs."""

import math
from itertools import combinations

import numpy as np
import pytest

from pinnersage_assets.model import random_pairs
from pinnersage_assets.model.random_pairs import share_of_pairs_above


@pytest.mark.parametrize("at_once", [1, 7, 1024])
def test_it_is_that_of_a_loop_over_pairs(monkeypatch, at_once):
    monkeypatch.setattr(random_pairs, "_VECTORS_AT_ONCE", at_once)
    vectors = np.random.default_rng(0).standard_normal((40, 3))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    near = [float(a @ b) >= 0.5 for a, b in combinations(vectors, 2)]
    assert share_of_pairs_above(vectors, 0.5) == sum(near) / len(near)


def test_by_hand():
    east, north = np.eye(2, dtype=np.float32)
    vectors = np.array([east, east, north])
    # At the threshold counts; a pin is no pair with itself.
    assert [share_of_pairs_above(vectors, cosine) for cosine in (1, 0.5, 0, -1)] == [1 / 3, 1 / 3, 1, 1]


def test_fewer_than_two_pins_are_no_pair():
    assert math.isnan(share_of_pairs_above(np.ones((1, 1), np.float32), 0.5))
    assert math.isnan(share_of_pairs_above(np.empty((0, 4), np.float32), 0.5))
