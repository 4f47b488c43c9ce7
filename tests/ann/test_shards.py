"""Several shards answer like one index, in the process that made them and in one that maps their files."""

import json

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from pinnersage_assets.ann import hnsw, index_files
from pinnersage_assets.ann.exact import ExactIndex, exact_search, recall
from pinnersage_assets.ann.hnsw import HnswParameters, IndexFileError, build
from pinnersage_assets.ann.index_files import IndexFiles, open_index, open_shard, write_pins
from pinnersage_assets.ann.restricted import search_among
from pinnersage_assets.ann.shards import ShardedIndex, merge, put_together, shard_of, split
from pinnersage_assets.vector_files import VectorFile

PARAMETERS = HnswParameters(connectivity=16, expansion_add=128, expansion_search=100, dtype="bf16")
PINS, SHARDS = 3000, 3


@pytest.fixture(scope="module")
def corpus():
    """Ids, some of them negative, and clustered vectors."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((60, 24))
    vectors = (centres[rng.integers(60, size=PINS)] + 0.7 * rng.standard_normal((PINS, 24))).astype(np.float32)
    return np.sort(rng.choice(10**9, PINS, replace=False)) - 10**8, vectors / np.linalg.norm(
        vectors, axis=1, keepdims=True
    )


@pytest.fixture(scope="module")
def index(corpus):
    return put_together([build(*own, PARAMETERS, threads=1) for own in split(*corpus, SHARDS)], *corpus)


@pytest.fixture(scope="module")
def queries(corpus):
    return corpus[1][::17]


def test_the_shard_of_a_pin_depends_on_its_id_alone(corpus):
    ids, _ = corpus
    numbers = shard_of(ids, SHARDS)
    assert np.array_equal(shard_of(ids[::7], SHARDS), numbers[::7])
    assert np.bincount(numbers, minlength=SHARDS).min() > 0.9 * PINS / SHARDS
    # Of consecutive ids, too, each shard gets its part.
    assert np.bincount(shard_of(np.arange(3000), SHARDS)).min() > 900
    # Files of earlier days rely on it.
    assert shard_of(np.array([1, 2, 3, -5]), 4).tolist() == [2, 0, 2, 2]


def test_shards_hold_every_pin_once_with_its_vector(corpus):
    ids, vectors = corpus
    parts = split(ids, vectors, SHARDS)
    assert np.array_equal(np.sort(np.concatenate([own for own, _ in parts])), ids)
    for own, some in parts:
        assert (np.diff(own) > 0).all()
        assert np.array_equal(some[:], vectors[np.searchsorted(ids, own)])
    [(same, all_vectors)] = split(ids, vectors, 1)
    assert same is ids
    assert all_vectors is vectors


def test_the_nearest_of_all_shards_come_first_equal_ones_by_id_and_none_last():
    ids = [np.array([[5, 9, -1], [-1, -1, -1]]), np.array([[2, 7], [4, -1]])]
    cosines = [np.array([[0.9, 0.5, -np.inf], [-np.inf] * 3]), np.array([[0.9, 0.6], [0.1, -np.inf]])]
    found, near = merge([(i, c.astype(np.float32)) for i, c in zip(ids, cosines, strict=True)], 4)
    assert found.tolist() == [[2, 5, 7, 9], [4, -1, -1, -1]]
    assert near[1].tolist() == [np.float32(0.1), *[-np.inf] * 3]
    assert near.dtype == np.float32


@pytest.mark.parametrize("k", [1, 50, 2000, 5000])
def test_shards_find_as_much_as_one_index_does(index, corpus, queries, k):
    ids, vectors = corpus
    exact, cosines = exact_search(queries, vectors, k)
    found, near = index.search(queries, k)
    assert found.shape == near.shape == (len(queries), min(k, PINS))
    assert recall(found, ids[exact]) >= recall(build(ids, vectors, PARAMETERS).search(queries, k)[0], ids[exact])
    if k >= index.scans_from:
        assert np.array_equal(found, ids[exact])
        assert np.allclose(near, cosines, atol=1e-6)


@pytest.mark.parametrize("share", [0.5, 0.02])
def test_shards_can_be_searched_among_the_allowed(index, corpus, queries, share):
    ids, vectors = corpus
    allowed = np.random.default_rng(1).random(PINS) < share
    found, _ = search_among(index, queries, 15, allowed)
    expected, _ = ExactIndex(ids[allowed], vectors[allowed]).search(queries, 15)
    assert np.isin(found, ids[allowed]).all()
    assert recall(found, expected) > 0.98


def test_of_few_pins_shards_may_be_empty():
    ids, vectors = np.arange(2), np.eye(8, dtype=np.float32)[:2]
    index = put_together([build(*own, PARAMETERS) for own in split(ids, vectors, 5)], ids, vectors)
    found, cosines = index.search(np.eye(8, dtype=np.float32)[1:3], 4)
    assert found.tolist() == [[1, 0], [0, 1]]
    assert cosines.tolist() == [[1, 0], [0, 0]]


# --- As files


@pytest.fixture
def described(index, corpus, tmp_path):
    """What a worker gets: the vectors stand in a larger file, in another order."""
    ids, vectors = corpus
    rows = np.random.default_rng(2).permutation(2 * PINS)[:PINS]
    stored = np.zeros((2 * PINS, vectors.shape[1]), dtype=np.float32)
    stored[rows] = vectors
    stored.tofile(tmp_path / "all.vectors")
    write_pins(tmp_path / "pins.npy", ids, rows)
    paths = [tmp_path / f"{number}.usearch" for number in range(SHARDS)]
    for shard, path in zip(index.shards, paths, strict=True):
        hnsw.save(shard, path)
    files = IndexFiles(VectorFile(tmp_path / "all.vectors", *stored.shape), tmp_path / "pins.npy", tuple(paths), 100)
    return json.loads(json.dumps(files.parameters))


def test_an_index_opened_from_its_description_is_the_same(described, index, queries):
    opened = open_index(described)
    assert isinstance(opened, ShardedIndex)
    assert np.array_equal(opened.ids, index.ids)
    assert np.array_equal(opened.vectors[:], index.vectors)
    for k in (1, 50, 1000):
        for found, expected in zip(opened.search(queries, k), index.search(queries, k), strict=True):
            assert np.array_equal(found, expected)
    for number, shard in enumerate(index.shards):
        assert np.array_equal(open_shard(described, number).search(queries, 50)[0], shard.search(queries, 50)[0])


def test_a_process_opens_it_once_and_only_the_shards_that_it_wants(described, monkeypatch):
    opened, real = [], hnsw.map_file
    monkeypatch.setattr(index_files.hnsw, "map_file", lambda path: opened.append(path.name) or real(path))
    assert open_shard(described, 1) is open_shard(dict(described), 1)
    assert opened == ["1.usearch"]
    assert open_index(described) is open_index(described)
    assert sorted(opened) == ["0.usearch", "1.usearch", "2.usearch"]
    other = {**described, "expansion_search": 7}
    assert open_index(other).expansion_search == 7


def test_it_has_the_threads_that_its_worker_has(described):
    for threads in (1, 2):
        with threadpool_limits(limits=threads):
            assert open_shard({**described, "expansion_search": threads}, 0).threads == threads


@pytest.mark.parametrize("shards", [0, 1])
def test_without_shards_it_is_exact_and_one_is_the_whole(described, corpus, queries, shards, tmp_path):
    ids, vectors = corpus
    if shards:
        hnsw.save(build(ids, vectors, PARAMETERS), tmp_path / "whole.usearch")
    described |= {"shards": [str(tmp_path / "whole.usearch")] * shards}
    opened = open_index(described)
    assert opened is open_shard(described, 0)
    exact, _ = exact_search(queries, vectors, 1000)
    assert np.array_equal(opened.search(queries, 1000)[0], ids[exact])


def test_a_file_that_is_gone_is_named(described, tmp_path):
    (tmp_path / "2.usearch").unlink()
    open_shard(described, 0)
    with pytest.raises(IndexFileError, match=r"2\.usearch is missing"):
        open_index(described)
