import os

import numpy as np
import pytest

from pinnersage_assets import graph_files
from pinnersage_assets.graph_files import GraphFileError, map_graph, open_graph, write_graph
from pinnersage_assets.model.pin_board_graph import PinBoardGraph


@pytest.fixture
def graph():
    rng = np.random.default_rng(0)
    return PinBoardGraph.of(rng.integers(50, size=400), rng.integers(20, size=400), np.arange(50), np.arange(50) % 7)


@pytest.fixture
def written(tmp_path, graph):
    path = tmp_path / "graph" / "pins.graph"
    return path, write_graph(path, graph)


def test_what_was_written_is_what_is_mapped(graph, written):
    opened = open_graph(*written)
    for name, array in graph.arrays.items():
        np.testing.assert_array_equal(opened.arrays[name], array)
        assert type(opened.arrays[name]) is np.ndarray
        assert not opened.arrays[name].flags.writeable
        assert opened.arrays[name].ctypes.data % 64 == 0
    assert sorted(path.name for path in written[0].parent.iterdir()) == ["pins.graph"]


def test_the_same_graph_is_the_same_file(tmp_path, graph, written):
    assert write_graph(tmp_path / "again", graph) == written[1]
    assert write_graph(tmp_path / "mapped", map_graph(written[0])) == written[1]


def test_no_edges_are_a_file_too(tmp_path):
    path = tmp_path / "empty"
    assert open_graph(path, write_graph(path, PinBoardGraph.of([], []))).n_edges == 0


@pytest.mark.parametrize("place", [0, 10, 40, -1])
def test_a_damaged_file_is_not_opened(written, place):
    path, sha256 = written
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(GraphFileError, match=r"pins.graph is damaged: its SHA-256 is \w+, its row says"):
        open_graph(path, sha256)


def test_a_file_is_missing(tmp_path):
    for opening in (map_graph, lambda path: open_graph(path, "0")):
        with pytest.raises(GraphFileError, match="nothing is missing"):
            opening(tmp_path / "nothing")


def test_what_is_no_graph_or_another_version_is_not_mapped(tmp_path, monkeypatch, graph, written):
    path = tmp_path / "other"
    for content in (b"", b"PINGRAPH", b"x" * 1000):
        path.write_bytes(content)
        with pytest.raises(GraphFileError, match="other is not a graph"):
            map_graph(path)
    for end in (30, 200, -64):
        path.write_bytes(written[0].read_bytes()[:end])
        with pytest.raises(GraphFileError, match="other is damaged"):
            map_graph(path)
    monkeypatch.setattr(graph_files, "VERSION", 2)
    with pytest.raises(GraphFileError, match="is of version 1, this program reads version 2: make it anew"):
        map_graph(written[0])


def test_a_file_that_cannot_be_written_leaves_the_one_before(monkeypatch, graph, written):
    path, sha256 = written

    def full(source, destination):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(GraphFileError, match=r"No space left on device.*is the disk full"):
        write_graph(path, graph)
    monkeypatch.undo()
    assert open_graph(path, sha256).n_edges == graph.n_edges
    assert len(list(path.parent.iterdir())) == 1
