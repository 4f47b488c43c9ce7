import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from usearch.index import Index

from pinnersage_assets.ann import hnsw
from pinnersage_assets.ann.exact import exact_search, recall
from pinnersage_assets.ann.hnsw import (
    HnswIndex,
    HnswParameters,
    IndexFileError,
    build,
    checksum,
    grow,
    open_file,
    save,
)

PARAMETERS = HnswParameters(connectivity=16, expansion_add=128, expansion_search=200, dtype="i8")
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


def opened(path, pins, parameters=PARAMETERS):
    ids, vectors = pins
    file = open_file(path, checksum(path), ids, vectors.shape[1], parameters)
    return HnswIndex(file, ids, vectors, parameters.expansion_search)


def recall_of(index, queries, k):
    assert k < index.scans_from  # otherwise there is no graph in it
    return recall(index.search(queries, k)[0], index.ids[exact_search(queries, index.vectors, k)[0]])


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "i8"])
def test_nearly_all_true_neighbours_are_found_with_exact_cosines(pins, dtype):
    ids, vectors = pins
    index, queries = build(*pins, replace(PARAMETERS, dtype=dtype)), clustered(2, 200)
    assert recall_of(index, queries, 100) > 0.97
    found, cosines = index.search(queries, 100)
    assert (found.shape, found.dtype, cosines.dtype) == ((200, 100), np.int64, np.float32)
    for query, some, near in zip(queries, found, cosines, strict=True):
        assert len(set(some.tolist())) == 100
        assert np.allclose(near, vectors[np.searchsorted(ids, some)] @ query, atol=1e-6)
        assert (np.diff(near) <= 0).all()


@pytest.mark.parametrize("k", [401, 4000, 10_000])
def test_a_search_for_more_than_a_tenth_of_the_pins_is_exact(index, pins, k):
    queries = clustered(2, 10)
    rows, cosines = exact_search(queries, pins[1], k)
    found = index.search(queries, k)
    assert found[0].shape == (10, min(k, 4000))
    assert np.array_equal(found[0], pins[0][rows])
    assert np.array_equal(found[1], cosines)


def test_equally_near_pins_come_by_id():
    """Of vectors along axes the cosines with such a query are equal to the last bit, many times over."""
    vectors = np.repeat(np.eye(8, dtype=np.float32), 50, axis=0)
    ids = np.sort(np.random.default_rng(3).choice(10**6, 400, replace=False)) - 500_000
    found, cosines = build(ids, vectors, PARAMETERS).search(np.eye(8, dtype=np.float32), 30)
    for axis, (some, near) in enumerate(zip(found, cosines, strict=True)):
        assert near.tolist() == [1.0] * 30
        assert set(some) <= set(ids[axis * 50 : axis * 50 + 50])
        assert (np.diff(some) > 0).all()


def test_the_place_of_missing_neighbours_is_taken_by_none(index, monkeypatch):
    """USearch may find fewer than it was asked for, in a graph that falls apart."""
    real = Index.search

    def finds_28(self, queries, k, **others):
        matches = real(self, queries, k, **others)
        if len(queries) == 1:
            return type(matches)(keys=matches.keys[:28], distances=matches.distances[:28])
        matches.counts[:] = 28
        return matches

    queries = clustered(2, 20)
    whole = index.search(queries, 40)[0]
    monkeypatch.setattr(Index, "search", finds_28)
    for asked, expected in ((queries, whole), (queries[:1], whole[:1])):
        found, cosines = index.search(asked, 30)
        assert (found[:, 28:] == -1).all()
        assert (cosines[:, 28:] == -np.inf).all()
        assert all(set(some) <= set(all_of_them) for some, all_of_them in zip(found[:, :28], expected, strict=True))
        assert (found[:, :28] != -1).all()


def test_a_pin_is_its_own_nearest(index, pins):
    ids, vectors = pins
    found, cosines = index.search(vectors[:50], 1)
    assert found.tolist() == [[pin] for pin in ids[:50]]
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
    assert cosines.shape == (q, m)


def test_an_empty_index_finds_nothing_also_after_opening(tmp_path):
    none = (np.empty(0, np.int64), NO_VECTORS)
    index = build(*none, PARAMETERS)
    save(index, tmp_path / "empty")
    for empty in (index, opened(tmp_path / "empty", none)):
        found, cosines = empty.search(clustered(1, 3), 10)
        assert found.shape == cosines.shape == (3, 0)


@pytest.mark.parametrize(("q", "k"), [(0, 5), (3, 0)])
def test_no_queries_and_no_neighbours(index, q, k):
    found, cosines = index.search(clustered(1, q), k)
    assert found.shape == cosines.shape == (q, k)


def test_an_opened_index_finds_the_same(index, pins, file):
    queries = clustered(6, 50)
    before, after = index.search(queries, 30), opened(file, pins).search(queries, 30)
    assert np.array_equal(before[0], after[0])
    assert np.array_equal(before[1], after[1])


def test_an_opened_index_searches_as_widely_as_it_was_told(pins, file):
    """USearch itself forgets the expansion: a narrow search would find less."""
    queries = clustered(7, 200)
    truth = pins[0][exact_search(queries, pins[1], 10)[0]]
    shares = {}
    for expansion in (60, 400):
        reopened = opened(file, pins, replace(PARAMETERS, expansion_search=expansion))
        shares[expansion] = recall(reopened.search(queries, 10)[0], truth)
        assert reopened.index.expansion_search == expansion
    assert shares[400] > max(shares[60], 0.98)


def test_more_neighbours_than_the_expansion_widen_the_search(pins, file):
    """And to more than those: where it ends with the last that is wanted, the last are found by luck."""
    narrow = opened(file, pins, replace(PARAMETERS, expansion_search=40))
    queries = clustered(8, 20)
    assert recall_of(narrow, queries, 300) > recall_of(replace(narrow, least_expansion=1), queries, 300) > 0.9
    narrow.search(queries, 5)
    assert narrow.index.expansion_search == 40


def test_builds_of_the_same_find_nearly_the_same(index, pins, monkeypatch):
    """With several threads graphs differ, so that files of equal input need not be equal."""
    monkeypatch.setattr(hnsw, "_INSERTED_ALONE", 0)
    queries = clustered(9, 100)
    [one, two] = [index.search(queries, 50)[0], build(*pins, PARAMETERS).search(queries, 50)[0]]
    assert recall(one, two) > 0.98


def test_a_small_corpus_is_the_same_graph_every_time(pins, tmp_path):
    """Threads that insert at the same time lose a pin now and then, which is much where there are few."""
    ids, vectors = (some[:800] for some in pins)
    files = [tmp_path / f"{number}.usearch" for number in range(4)]
    for file in files:
        save(build(ids, vectors, PARAMETERS), file)
    assert len({checksum(file) for file in files}) == 1


def test_searching_again_finds_the_same(index):
    queries = clustered(9, 100)
    [one, two] = [index.search(queries, 50) for _ in range(2)]
    assert np.array_equal(one[0], two[0])
    assert np.array_equal(one[1], two[1])


def test_progress_ascends_and_ends_with_all_pins():
    reports = []
    build(np.arange(10_500), clustered(1, 10_500, n=4), HnswParameters(4, 8, 8, "f32"), lambda *d: reports.append(d))
    done = [some for some, _ in reports]
    assert done == sorted(set(done))
    assert len(done) > 1
    assert {total for _, total in reports} == {10_500}
    assert done[-1] == 10_500


def test_a_mapped_index_answers_after_its_file_was_deleted(pins, file):
    """A file may be deleted, being old, while a run still searches it."""
    mapped, queries = opened(file, pins), clustered(6, 50)
    before = mapped.search(queries, 30)
    file.unlink()
    after = mapped.search(queries, 30)
    assert np.array_equal(before[0], after[0])


# Growing.


def stored(index, path):
    """An index that is saved, and opened again to grow."""
    save(index, path)
    return open_file(path, checksum(path), index.ids, index.vectors.shape[1], PARAMETERS, to_grow=True)


def some_of(pins, rows):
    rows = np.sort(rows)
    return pins[0][rows], pins[1][rows]


def held_by(index):
    """The pins of an index as USearch has them, in the graph itself."""
    return sorted(np.asarray(index.index.keys).view(np.int64).tolist())


def test_an_index_that_grew_for_many_days_holds_the_pins_of_the_day_and_finds_them(pins, tmp_path):
    """Each day one pin in a hundred leaves and one comes; some that left return."""
    rng, everything = np.random.default_rng(5), np.arange(4000)
    rows = rng.choice(4000, 3000, replace=False)
    index = build(*some_of(pins, rows), PARAMETERS)
    ever, queries = set(rows), clustered(2, 200)
    returned = 0
    for day in range(25):
        coming = rng.choice(np.setdiff1d(everything, rows), 30, replace=False)
        rows = np.concatenate([rng.choice(rows, len(rows) - 30, replace=False), coming])
        returned += len(ever & set(coming))
        ever |= set(coming)
        index = grow(stored(index, tmp_path / str(day)), *some_of(pins, rows), PARAMETERS)
        assert held_by(index) == sorted(pins[0][rows])
    gone = pins[1][sorted(ever - set(rows))]
    assert len(gone) > 300
    assert returned > 50
    save(index, tmp_path / "last")
    index, fresh = opened(tmp_path / "last", some_of(pins, rows)), build(*some_of(pins, rows), PARAMETERS)
    # Asked for the very vectors of the pins that left, neither gives them.
    for wanted in (queries, gone):
        found, cosines = index.search(wanted, 50)
        assert np.isin(found, pins[0][rows]).all()
        truth = pins[1][np.searchsorted(pins[0], found)]
        assert np.allclose(cosines, np.einsum("qkn,qn->qk", truth, wanted), atol=1e-6)
        assert recall_of(index, wanted, 50) > recall_of(fresh, wanted, 50) - 0.02
    # What left is replaced, not kept.
    assert (tmp_path / "last").stat().st_size < 1.1 * (tmp_path / "0").stat().st_size


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (range(2000), range(2000, 4000)),
        (range(2000), range(1000, 3000)),
        (range(2000), range(0)),
        (range(0), range(2000)),
        (range(2000), range(2000)),
        (range(2000), range(0, 2000, 2)),
        (range(0, 2000, 2), range(2000)),
        (range(0), range(0)),
        (range(1), range(1, 2)),
    ],
    ids=["disjoint", "half", "to-none", "from-none", "same", "fewer", "more", "none-to-none", "one-to-another"],
)
def test_an_index_grows_from_whatever_to_whatever(pins, tmp_path, before, after):
    old, new = some_of(pins, np.array(before, int)), some_of(pins, np.array(after, int))
    grown = grow(stored(build(*old, PARAMETERS), tmp_path / "old"), *new, PARAMETERS)
    save(grown, tmp_path / "new")
    queries = clustered(2, 100)
    for index in (grown, opened(tmp_path / "new", new)):
        assert held_by(index) == new[0].tolist()
        assert index.search(queries, 20)[0].shape == (100, min(20, len(after)))
        if len(after) > 200:
            assert recall_of(index, queries, 20) > 0.95


def test_a_pin_that_returns_has_the_vector_that_it_returns_with(pins, tmp_path):
    ids, vectors = pins
    without = grow(stored(build(*pins, PARAMETERS), tmp_path / "one"), ids[1:], vectors[1:], PARAMETERS)
    other = vectors.copy()
    other[0] = -vectors[0]
    index = grow(stored(without, tmp_path / "two"), ids, other, PARAMETERS)
    found, cosines = index.search(np.stack([-vectors[0], vectors[0]]), 10)
    assert found[0, 0] == ids[0]
    assert cosines[0, 0] == pytest.approx(1)
    assert ids[0] not in found[1]


def test_growing_leaves_the_file_alone_that_it_grew_from(pins, tmp_path):
    file = tmp_path / "one"
    index = stored(build(*some_of(pins, np.arange(3000)), PARAMETERS), file)
    before = file.read_bytes()
    grown = grow(index, *pins, PARAMETERS)
    save(grown, tmp_path / "two")
    assert file.read_bytes() == before


def test_what_grows_is_held_to_the_same_rules_as_what_is_built(index, tmp_path):
    file = stored(index, tmp_path / "pins.usearch")
    with pytest.raises(ValueError, match="ids must be ascending, each once"):
        grow(file, np.array([1, 3, 2]), clustered(1, 3), PARAMETERS)
    with pytest.raises(ValueError, match="unit length; that of pin 1 has nan"):
        grow(file, np.arange(3), bad(np.nan), PARAMETERS)


# Files that cannot be opened.


def test_a_missing_file_is_named(pins, tmp_path):
    for path in (tmp_path / "nowhere.usearch", tmp_path):
        with pytest.raises(IndexFileError, match=f"{path} is missing"):
            open_file(path, "0" * 64, pins[0], 32, PARAMETERS)


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, -1], ids=str)
def test_a_truncated_file_is_damaged(pins, file, kept):
    whole = file.read_bytes()
    sha256 = checksum(file)
    file.write_bytes(whole[: int(len(whole) * kept) if isinstance(kept, float) else kept])
    for to_grow in (False, True):
        with pytest.raises(IndexFileError, match=r"pins\.usearch is damaged: its SHA-256 is"):
            open_file(file, sha256, pins[0], 32, PARAMETERS, to_grow)


def test_one_changed_bit_is_damage(pins, file):
    content, sha256 = bytearray(file.read_bytes()), checksum(file)
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(IndexFileError, match=f"its row says {sha256}"):
        open_file(file, sha256, pins[0], 32, PARAMETERS)


@pytest.mark.parametrize("content", [b"", b"no index", b"no index" * 1000], ids=len)
def test_a_file_that_is_no_index_is_named_even_if_its_checksum_holds(pins, tmp_path, content):
    path = tmp_path / "pins.usearch"
    path.write_bytes(content)
    with pytest.raises(IndexFileError, match=r"pins\.usearch"):
        opened(path, pins)


@pytest.mark.parametrize("to_grow", [False, True])
def test_an_index_of_other_pins_is_refused(pins, file, to_grow):
    ids = pins[0]
    for other in (ids[1:], ids + 1, ids[:0], np.append(ids, ids[-1] + 1)):
        with pytest.raises(IndexFileError, match=f"does not hold the {len(other)} pins that its row is of"):
            open_file(file, checksum(file), other, 32, PARAMETERS, to_grow)


@pytest.mark.parametrize(
    ("dimensions", "parameters"),
    [
        (16, PARAMETERS),
        (33, PARAMETERS),
        (32, replace(PARAMETERS, dtype="f16")),
        (32, replace(PARAMETERS, dtype="f32")),
        (32, replace(PARAMETERS, connectivity=8)),
    ],
)
def test_an_index_that_was_built_otherwise_is_refused(pins, file, dimensions, parameters):
    with pytest.raises(IndexFileError, match=r"pins\.usearch has metric, dtype, connectivity and dimensions"):
        open_file(file, checksum(file), pins[0], dimensions, parameters)


def test_an_index_of_another_metric_is_refused(pins, tmp_path):
    other = Index(ndim=32, metric="ip", dtype="i8", connectivity=16)
    other.add(pins[0].view(np.uint64), pins[1])
    other.save(str(tmp_path / "pins.usearch"))
    with pytest.raises(IndexFileError, match=r"\('ip', 'i8', 16, 32\), its row says \('cos', 'i8', 16, 32\)"):
        opened(tmp_path / "pins.usearch", pins)


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
    with pytest.raises(IndexFileError, match=r"pins\.usearch cannot be written \(disk is full\)"):
        save(index, path)
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == before


FULL = """
import json, os, resource, signal, sys
from pathlib import Path
import numpy as np
from pinnersage_assets.ann import hnsw

folder = Path(sys.argv[1])
vectors = np.random.default_rng(0).standard_normal((500, 16)).astype(np.float32)
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
index = hnsw.build(np.arange(500), vectors, hnsw.HnswParameters(16, 128, 200, "f32"))
hnsw.save(index, folder / "earlier.usearch")
earlier = (folder / "earlier.usearch").read_bytes()
size = len(earlier)
told = []
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for room in (0, 1, 100, size // 2, size - 5000, size - 100, size - 1, size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    for name in ("new.usearch", "earlier.usearch"):
        try:
            hnsw.save(index, folder / name)
            error = None
        except hnsw.IndexFileError as raised:
            error = str(raised)
        unharmed = (folder / "earlier.usearch").read_bytes() == earlier
        told.append((size - room, name, error, sorted(os.listdir(folder)), unharmed))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
print(json.dumps(told))
"""


def test_a_file_for_which_there_is_no_room_is_an_error_and_leaves_nothing(tmp_path):
    """Also where only the last bytes find no room, as they do not before the file is closed."""
    found = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], check=True, capture_output=True, text=True)
    told = json.loads(found.stdout)
    assert [lacking for lacking, *_ in told][-2:] == [0, 0]
    for lacking, name, error, files, unharmed in told:
        assert unharmed
        if lacking:
            assert error.startswith(f"{tmp_path / name} cannot be written (")
            assert "is the disk full? Earlier files stay." in error
            assert files == ["earlier.usearch"]
        else:
            assert error is None
    assert sorted(os.listdir(tmp_path)) == ["earlier.usearch", "new.usearch"]


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
    assert held_by(opened(path, pins)) == list(range(8))


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
    ids = np.array([-(2**63), -(2**63) + 1, *range(-18, -1), *range(19), 2**63 - 2, 2**63 - 1])
    pins = ids, np.eye(40, dtype=np.float32)
    index = build(*pins, PARAMETERS)
    save(index, tmp_path / "odd")
    for searched in (index, opened(tmp_path / "odd", pins)):
        assert searched.scans_from > 1
        assert searched.search(pins[1], 1)[0][:, 0].tolist() == ids.tolist()


def test_ids_may_lie_further_apart_than_an_int64_holds():
    ids, vectors = np.array([-(2**63), 2**63 - 1]), np.eye(2, dtype=np.float32)
    assert build(ids, vectors, PARAMETERS).search(vectors, 1)[0][:, 0].tolist() == ids.tolist()
