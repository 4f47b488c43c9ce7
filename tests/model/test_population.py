import numpy as np
import pytest

from pinnersage_assets.model.population import batches, offsets_of, rows_of


@pytest.mark.parametrize(
    ("owners", "expected"),
    [
        ([], [0]),
        ([7], [0, 1]),
        ([3, 3, 5, 9, 9, 9], [0, 2, 3, 6]),
        ([-(2**63), -(2**63), 2**63 - 1], [0, 2, 3]),
        ([5, 5, 2, 2], [0, 2, 4]),  # together, but not in order
    ],
)
def test_offsets_say_where_each_owner_begins(owners, expected):
    offsets = offsets_of(np.array(owners, dtype=np.int64))
    assert offsets.tolist() == expected
    assert offsets.dtype == np.int64


@pytest.mark.parametrize("rows", [1, 3, 10, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_batches_cover_all_owners_in_order_and_split_none(seed, rows):
    sizes = np.random.default_rng(seed).integers(1, 8, size=50)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    ranges = list(batches(offsets, rows))
    assert [owner for first, last in ranges for owner in range(first, last)] == list(range(50))
    for first, last in ranges:
        size = offsets[last] - offsets[first]
        assert size <= rows or last == first + 1
        # As many owners as fit.
        assert last == 50 or offsets[last + 1] - offsets[first] > rows


def test_nobody_is_no_batch():
    assert list(batches(np.array([0]))) == []


# Few are searched for; for many a table is made, unless ids are sparse.
SPARSE = np.array([-(2**63), -3, 0, 7, 9, 2**63 - 1])


@pytest.mark.parametrize("ids", [np.array([-3, 0, 7, 9]), SPARSE], ids=["dense", "sparse"])
@pytest.mark.parametrize("times", [1, 100])
def test_rows_of_finds_each_id(ids, times):
    wanted = np.tile(np.array([9, -3, 7, 7]), times)
    assert ids[rows_of(ids, wanted)].tolist() == wanted.tolist()
    assert rows_of(ids, wanted).dtype == np.int64
    assert rows_of(ids, np.empty(0, np.int64)).tolist() == []


@pytest.mark.parametrize("times", [1, 100])
@pytest.mark.parametrize("missing", [-4, 1, 10, 2**63 - 1, -(2**63)])
def test_rows_of_never_gives_a_neighbour(missing, times):
    wanted = np.array([7] * times + [missing])
    with pytest.raises(ValueError, match=f"1 of {times + 1} ids are not among 4, such as {missing}"):
        rows_of(np.array([-3, 0, 7, 9]), wanted)
    with pytest.raises(ValueError, match="2 of 2 ids are not among 0"):
        rows_of(np.empty(0, np.int64), np.array([7, missing]))
