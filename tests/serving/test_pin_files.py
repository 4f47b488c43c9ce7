import numpy as np
import pytest
from served_data import CORPUS, pin_arrays, pin_id

from pinnersage_assets.serving.pin_files import PinFilesError, open_pin_files, write_pin_files


def in_parts(vectors, at_once=7):
    order = np.random.default_rng(0).permutation(len(vectors))
    return ((rows, vectors[rows]) for rows in np.array_split(order, len(vectors) // at_once))


@pytest.fixture
def written(tmp_path):
    arrays, vectors = pin_arrays()
    folder = tmp_path / "pins" / "v"
    return folder, write_pin_files(folder, arrays, in_parts(vectors)), arrays, vectors


def test_what_was_written_is_what_is_mapped(written):
    folder, sha256, arrays, vectors = written
    opened = open_pin_files(folder, sha256)
    assert np.array_equal(opened.vectors, vectors)
    assert opened.corpus_size == CORPUS
    for name, array in arrays.items():
        assert np.array_equal(getattr(opened, name), array)
    assert isinstance(opened.vectors.base, np.memmap)


def test_pins_are_found_in_the_corpus_and_beside_it(written):
    opened = open_pin_files(*written[:2])
    wanted = np.array([pin_id(CORPUS + 1), 11, pin_id(0), -5, pin_id(CORPUS - 1)])
    assert opened.rows_of(wanted).tolist() == [CORPUS + 1, -1, 0, -1, CORPUS - 1]
    assert opened.rows_of(np.empty(0, np.int64)).tolist() == []


def test_neighbours_are_those_of_the_cache(written):
    opened = open_pin_files(*written[:2])
    rows, cosines = opened.neighbours_of(pin_id(0))
    assert rows[0] == 0
    assert cosines[0] == pytest.approx(1)
    assert opened.neighbours_of(pin_id(1)) is None
    assert opened.neighbours_of(10**9) is None


@pytest.mark.parametrize("name", ["vectors", "ids", "popular_rows"])
def test_a_damaged_file_is_not_opened(written, name):
    folder, sha256, *_ = written
    path = folder / f"{name}.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(PinFilesError, match=r"v is damaged: its checksum is \w+, its row says"):
        open_pin_files(folder, sha256)
    path.unlink()
    with pytest.raises(PinFilesError, match=f"{name}.npy is missing"):
        open_pin_files(folder, sha256)


def test_files_that_could_not_be_written_whole_are_not_there(tmp_path):
    arrays, vectors = pin_arrays()
    folder = tmp_path / "pins" / "v"
    with pytest.raises(ValueError, match="7 vectors came for 123 pins"):
        write_pin_files(folder, arrays, [(np.arange(7), vectors[:7])])

    def failing():
        yield np.arange(7), vectors[:7]
        raise RuntimeError("the database went away")

    with pytest.raises(RuntimeError, match="the database went away"):
        write_pin_files(folder, arrays, failing())
    assert list(folder.parent.iterdir()) == []


def test_no_pins_at_all_are_files_too(tmp_path):
    arrays, _ = pin_arrays(1, 0)
    arrays = {name: array[:0] for name, array in arrays.items()}
    arrays["neighbour_starts"] = np.zeros(1, np.int64)
    opened = open_pin_files(tmp_path / "v", write_pin_files(tmp_path / "v", arrays, []))
    assert opened.rows_of(np.array([10])).tolist() == [-1]
    assert opened.neighbours_of(10) is None
