"""Random numbers that depend on their keys alone."""

import numpy as np
import pytest
from scipy.stats import chisquare, kstest

from pinnersage_assets.model.randomness import (
    keyed_bits,
    keyed_normal,
    keyed_sample,
    keyed_uniform,
    stream_bits,
    streams_from,
)


def test_successive_keys_give_uniform_numbers():
    n = 200_000
    for numbers in (
        keyed_uniform(np.arange(n)),
        keyed_uniform(0, "medoids", np.arange(n), 3),
        keyed_uniform(np.arange(n) << 40, 1),
        keyed_uniform(-np.arange(n)),
    ):
        assert numbers.dtype == np.float64
        assert numbers.min() > 0
        assert numbers.max() < 1
        assert kstest(numbers, "uniform").pvalue > 0.001
        assert len(np.unique(numbers)) == n


def test_neighbouring_keys_are_independent():
    grid = keyed_uniform(1, np.arange(300)[:, None], np.arange(300))
    for a, b in ((grid[:-1], grid[1:]), (grid[:, :-1], grid[:, 1:]), (grid, grid.T)):
        off_diagonal = a.ravel() != b.ravel()
        cells = (a.ravel()[off_diagonal] * 8).astype(int) * 8 + (b.ravel()[off_diagonal] * 8).astype(int)
        # Each number occurs in two pairs, and in the last case each pair twice: hence the generous bound.
        assert chisquare(np.bincount(cells, minlength=64)).pvalue > 1e-4


def test_a_number_does_not_depend_on_order_or_batch():
    users = np.random.default_rng(0).integers(-(2**62), 2**62, size=1000)
    together = keyed_uniform(5, "day", users, 2)
    order = np.random.default_rng(1).permutation(1000)
    np.testing.assert_array_equal(keyed_uniform(5, "day", users[order], 2), together[order])
    np.testing.assert_array_equal([keyed_uniform(5, "day", int(user), 2) for user in users[:50]], together[:50])


def test_numbers_stay_the_same_for_ever():
    # A re-run of an old partition must draw the same medoids: a change here is a change of every result.
    assert float(keyed_uniform(0, "medoids", 1)) == 0.7733391510921083
    assert float(keyed_uniform(0, "medoids", -1)) == 0.543537079539527


def test_keys_broadcast_like_arrays():
    table = keyed_uniform(1, np.arange(3)[:, None], np.arange(4))
    assert table.shape == (3, 4)
    for i in range(3):
        for j in range(4):
            assert table[i, j] == keyed_uniform(1, i, j)
    assert keyed_uniform(1, np.empty(0, dtype=np.int64)).shape == (0,)
    assert keyed_uniform("a", 1).shape == ()
    with pytest.raises(ValueError, match="broadcast"):
        keyed_uniform(np.arange(3), np.arange(4))


def test_purpose_order_and_number_of_keys_all_matter():
    keys = [
        keys
        for a, b in ((1, 2), ("users", "pins"), ("1", "2"), (0, 0), ("", ""))
        for keys in ((a, b), (b, a), (a,), (b,), (a, b, 0))
    ]
    numbers = {keys: float(keyed_uniform(*keys)) for keys in keys}
    assert len(set(numbers.values())) == len(numbers)


def test_integer_types_are_the_same_key():
    for dtype in (np.int8, np.int32, np.int64, np.uint64):
        assert keyed_uniform(3, np.array([7], dtype=dtype))[0] == keyed_uniform(3, 7)


def test_normal_numbers_are_normal_and_keyed():
    numbers = keyed_normal("noise", np.arange(100_000))
    assert kstest(numbers, "norm").pvalue > 0.001
    np.testing.assert_array_equal(keyed_normal("noise", np.arange(100)), numbers[:100])


def test_keys_that_would_be_rounded_are_refused():
    with pytest.raises(TypeError, match="float64"):
        keyed_uniform(0.5)


def test_a_sample_is_those_of_the_smallest_numbers_whoever_else_is_there():
    ids = np.random.default_rng(0).permutation(np.arange(-500, 500))
    drawn = keyed_sample(ids, 100, "purpose", 7)
    expected = sorted(ids.tolist(), key=lambda own: float(keyed_uniform("purpose", 7, own)))[:100]
    assert drawn.tolist() == sorted(expected)
    # Of fewer ids those that were drawn stay.
    some = ids[ids % 2 == 0]
    assert set(drawn[drawn % 2 == 0].tolist()) <= set(keyed_sample(some, 100, "purpose", 7).tolist())
    assert keyed_sample(some, 1000, "purpose", 7).tolist() == sorted(some.tolist())
    assert keyed_sample(some[:0], 5, "purpose").tolist() == []


def test_streams_are_those_of_splitmix():
    def splitmix(state):
        """As Steele, Lea and Flood give it, with whole numbers."""
        while True:
            state = (state + 0x9E3779B97F4A7C15) % 2**64
            z = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
            z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
            yield z ^ (z >> 31)

    starts = np.array([0, 1234567, 2**64 - 1], dtype=np.uint64)
    numbers = stream_bits(starts[:, None], np.arange(50, dtype=np.uint64))
    for start, own in zip(starts.tolist(), numbers.tolist(), strict=True):
        assert own == [number for number, _ in zip(splitmix(start), range(50), strict=False)]
    np.testing.assert_array_equal(stream_bits(streams_from(starts, [3, 0, 9]), 5), numbers[[0, 1, 2], [8, 5, 14]])
    assert keyed_bits("a", 1).dtype == np.uint64
    assert float(keyed_uniform("a", 1)) == ((int(keyed_bits("a", 1)) >> 12) + 0.5) / 2**52
