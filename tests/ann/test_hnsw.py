import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from usearch.index import Index

from pinnersage_assets.ann.exact import exact_search, recall
from pinnersage_assets.ann.hnsw import (
    HnswParameters,
    IndexFileError,
    build,
    checksum,
    fingerprint,
    open_index,
    save,
)

PARAMETERS = HnswParameters(connectivity=16, expansion_add=128, expansion_search=200, dtype="bf16")
NO_VECTORS = np.empty((0, 32), np.float32)


def clustered(seed: int, m: int, n: int = 32) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((50, n))
    vectors = (centres[rng.integers(50, size=m)] + 0.5 * rng.standard_normal((m, n))).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def pins() -> tuple[np.ndarray, np.ndarray]:
    ids = np.sort(np.random.default_rng(0).choice(10**9, 4000, replace=False)) - 5 * 10**8
    return ids, clustered(1, 4000)


@pytest.fixture(scope="module")
def index(pins):
    return build(*pins, PARAMETERS)


@pytest.fixture
def file(index, tmp_path):
    path = tmp_path / "index" / "dt=2026-03-01" / "pins.usearch"
    save(index, path)
    return path


def opened(path, pins, expansion_search=200):
    return open_index(path, checksum(path), *pins, expansion_search)


def test_nearly_all_true_neighbours_are_found_with_exact_cosines(index, pins):
    ids, vectors = pins
    queries = clustered(2, 200)
    rows, _ = exact_search(queries, vectors, 100)
    found, cosines = index.search(queries, 100)
    assert recall(found, ids[rows]) > 0.97
    for query, some, near in zip(queries, found, cosines, strict=True):
        assert len(some) == len(set(some.tolist())) == 100
        assert np.allclose(near, vectors[np.searchsorted(ids, some)] @ query, atol=1e-6)
        assert (np.diff(near) <= 0).all()


def test_a_pin_is_its_own_nearest(index, pins):
    ids, vectors = pins
    found, cosines = index.search(vectors[:50], 1)
    assert [list(some) for some in found] == [[pin] for pin in ids[:50]]
    assert np.allclose(cosines, 1, atol=1e-6)


def test_a_query_alone_finds_what_it_finds_among_others(index):
    queries = clustered(3, 5)
    together, cosines = index.search(queries, 20)
    for number in range(5):
        [alone], [near] = index.search(queries[number : number + 1], 20)
        assert np.array_equal(alone, together[number])
        assert np.allclose(near, cosines[number], atol=1e-6)


@pytest.mark.parametrize("q", [1, 2])
@pytest.mark.parametrize("m", [1, 2, 7])
def test_more_neighbours_than_there_are_pins_gives_all_pins(m, q):
    ids = np.arange(m) * 10
    found, cosines = build(ids, clustered(4, m), PARAMETERS).search(clustered(5, q), 100)
    assert [sorted(some.tolist()) for some in found] == [ids.tolist()] * q
    assert [len(near) for near in cosines] == [m] * q


def test_an_empty_index_finds_nothing_also_after_opening(tmp_path):
    none = (np.empty(0, np.int64), NO_VECTORS)
    index = build(*none, PARAMETERS)
    save(index, tmp_path / "empty")
    for empty in (index, opened(tmp_path / "empty", none)):
        found, cosines = empty.search(clustered(1, 3), 10)
        assert [len(some) for some in found] == [len(near) for near in cosines] == [0, 0, 0]


@pytest.mark.parametrize(("q", "k"), [(0, 5), (3, 0)])
def test_no_queries_and_no_neighbours(index, q, k):
    found, cosines = index.search(clustered(1, q), k)
    assert [len(some) for some in found] == [len(near) for near in cosines] == [0] * q


def test_an_opened_index_finds_the_same(index, pins, file):
    queries = clustered(6, 50)
    before, after = index.search(queries, 30), opened(file, pins).search(queries, 30)
    assert all(np.array_equal(a, b) for a, b in zip(before[0], after[0], strict=True))


def test_an_opened_index_searches_as_widely_as_it_was_told(pins, file):
    """USearch itself forgets the expansion: a narrow search would find less."""
    queries = clustered(7, 200)
    truth = pins[0][exact_search(queries, pins[1], 10)[0]]
    shares = {}
    for expansion in (10, 400):
        reopened = opened(file, pins, expansion)
        shares[expansion] = recall(reopened.search(queries, 10)[0], truth)
        assert reopened.index.expansion_search == expansion
    assert shares[400] > max(shares[10], 0.98)


def test_more_neighbours_than_the_expansion_widen_the_search(pins, file):
    narrow = opened(file, pins, expansion_search=10)
    queries = clustered(8, 20)
    assert recall(narrow.search(queries, 300)[0], pins[0][exact_search(queries, pins[1], 300)[0]]) > 0.9
    narrow.search(queries, 5)
    assert narrow.index.expansion_search == 10


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "i8"])
def test_equal_input_gives_equal_files(tmp_path, dtype):
    parameters = HnswParameters(16, 64, 50, dtype)
    ids, vectors = np.arange(2500), clustered(9, 2500)
    for name in ("one", "two"):
        save(build(ids.copy(), vectors.copy(), parameters), tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_fingerprint_tells_inputs_apart(pins):
    ids, vectors = pins
    other = vectors.copy()
    other[7, 3] += 1e-7
    prints = [
        fingerprint(ids, vectors, PARAMETERS),
        fingerprint(ids + 1, vectors, PARAMETERS),
        fingerprint(ids, other, PARAMETERS),
        fingerprint(ids, vectors, HnswParameters(16, 129, 200, "bf16")),
    ]
    assert len(set(prints)) == 4
    # How it is searched is not in the file.
    assert fingerprint(ids, vectors, replace(PARAMETERS, expansion_search=201)) == prints[0]
    assert fingerprint(ids.copy(), np.asfortranarray(vectors), PARAMETERS) == prints[0]


def test_progress_ends_with_all_pins():
    reports = []
    build(np.arange(4500), clustered(1, 4500, n=4), HnswParameters(4, 8, 8, "f32"), lambda *done: reports.append(done))
    assert reports == [(2000, 4500), (4000, 4500), (4500, 4500)]


# Files that cannot be opened.


def test_a_missing_file_is_named(pins, tmp_path):
    for path in (tmp_path / "nowhere.usearch", tmp_path):
        with pytest.raises(IndexFileError, match=f"{path} is missing"):
            open_index(path, "0" * 64, *pins, 200)


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, -1], ids=str)
def test_a_truncated_file_is_damaged(pins, file, kept):
    whole = file.read_bytes()
    sha256 = checksum(file)
    file.write_bytes(whole[: int(len(whole) * kept) if isinstance(kept, float) else kept])
    with pytest.raises(IndexFileError, match=r"pins\.usearch is damaged: its SHA-256 is"):
        open_index(file, sha256, *pins, 200)


def test_one_changed_bit_is_damage(pins, file):
    content, sha256 = bytearray(file.read_bytes()), checksum(file)
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(IndexFileError, match=f"its row says {sha256}"):
        open_index(file, sha256, *pins, 200)


@pytest.mark.parametrize("content", [b"", b"no index", b"no index" * 1000], ids=len)
def test_a_file_that_is_no_index_is_named_even_if_its_checksum_holds(pins, tmp_path, content):
    path = tmp_path / "pins.usearch"
    path.write_bytes(content)
    with pytest.raises(IndexFileError, match=r"pins\.usearch"):
        opened(path, pins)


def test_an_index_of_other_pins_is_refused(pins, file):
    ids, vectors = pins
    for other in (
        (ids[1:], vectors[1:]),
        (ids + 1, vectors),
        (ids, clustered(1, 4000, n=16)),
        (ids[:0], vectors[:0]),
    ):
        with pytest.raises(IndexFileError, match=f"does not hold the {len(other[0])} pins of the corpus"):
            opened(file, other)


# Saving.


def test_saving_leaves_one_file(index, file):
    assert os.listdir(file.parent) == ["pins.usearch"]
    before = file.read_bytes()
    save(index, file)
    assert file.read_bytes() == before
    assert os.listdir(file.parent) == ["pins.usearch"]


@pytest.mark.parametrize("exists", [False, True], ids=["new", "existing"])
def test_saving_that_fails_leaves_what_was_there(index, pins, tmp_path, monkeypatch, exists):
    path = tmp_path / "pins.usearch"
    if exists:
        save(index, path)
    before = [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()]

    def fails_halfway(self, name):
        with open(name, "wb") as file:
            file.write(b"half of it")
        raise OSError("disk is full")

    monkeypatch.setattr(Index, "save", fails_halfway)
    with pytest.raises(OSError, match="disk is full"):
        save(index, path)
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == before


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from usearch.index import Index
from pinnersage_assets.ann import hnsw

step, path = sys.argv[1], Path(sys.argv[2])
real = Index.save

def half(self, name):
    real(self, name)
    os.truncate(name, os.path.getsize(name) // 2)
    os.kill(os.getpid(), signal.SIGKILL)

if step == "save":
    Index.save = half
else:
    setattr(os, step, lambda *arguments: os.kill(os.getpid(), signal.SIGKILL))
vectors = np.eye(8, dtype=np.float32)
hnsw.save(hnsw.build(np.arange(8), vectors, hnsw.HnswParameters(16, 128, 200, "f32")), path)
"""


@pytest.mark.parametrize("step", ["save", "fsync", "replace"])
def test_killed_while_saving_nothing_has_the_final_name(tmp_path, step):
    path = tmp_path / "pins.usearch"
    killed = subprocess.run([sys.executable, "-c", KILLED, step, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not path.exists()
    pins = np.arange(8), np.eye(8, dtype=np.float32)
    save(build(*pins, PARAMETERS), path)
    assert len(opened(path, pins).index) == 8


# Input that is refused.


def bad(value: float) -> np.ndarray:
    vectors = clustered(1, 3)
    vectors[1, 0] = value
    return vectors


@pytest.mark.parametrize(
    ("ids", "vectors", "message"),
    [
        (np.array([1, 2, 2]), clustered(1, 3), "ids must be ascending, each once"),
        (np.array([1, 3, 2]), clustered(1, 3), "ids must be ascending"),
        (np.array([-2, -1, 5]), clustered(1, 3), "pin id -1 cannot be a key"),
        (np.array([1, 2]), clustered(1, 3), r"ids of shape \(2,\) do not fit vectors of shape \(3, 32\)"),
        (np.array([[1, 2, 3]]), clustered(1, 3), "do not fit"),
        (np.arange(3), clustered(1, 3)[0], "do not fit"),
        (np.arange(3), bad(np.nan), "unit length; that of pin 1 has nan"),
        (np.arange(3), bad(np.inf), "unit length; that of pin 1 has inf"),
        (np.arange(3), np.zeros((3, 32), np.float32), "unit length; that of pin 0 has 0"),
        (np.arange(3), 2 * clustered(1, 3), r"unit length; that of pin 0 has (2|1\.9999)"),
        (np.arange(3, dtype=np.int32), clustered(1, 3), "ids must be int64 and vectors float32; they are int32"),
        (np.arange(3), clustered(1, 3).astype(np.float64), "ids must be int64 and vectors float32"),
    ],
)
def test_ids_and_vectors_that_cannot_be_indexed_are_refused(ids, vectors, message):
    with pytest.raises(ValueError, match=message):
        build(ids, vectors, PARAMETERS)


def test_negative_and_large_ids_come_back(tmp_path):
    ids = np.array([-(2**63), -2, 0, 2**63 - 1])
    pins = ids, np.eye(4, dtype=np.float32)
    save(build(*pins, PARAMETERS), tmp_path / "odd")
    found, _ = opened(tmp_path / "odd", pins).search(pins[1], 1)
    assert [list(some) for some in found] == [[pin] for pin in ids]
