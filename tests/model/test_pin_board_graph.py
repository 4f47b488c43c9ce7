"""The graph's lists, against sets of pairs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pinnersage_assets.model.pin_board_graph import ARRAY_TYPES, NO_FEATURE, PinBoardGraph

edges_and_features = st.tuples(
    st.lists(st.tuples(st.integers(-3, 12), st.integers(100, 106)), max_size=60),
    st.dictionaries(st.integers(-3, 15), st.integers(-1, 4)),
)


def built(edges, features=None):
    pins, boards = np.array(edges, dtype=np.int64).reshape(-1, 2).T
    features = features or {}
    return PinBoardGraph.of(pins, boards, list(features), list(features.values()))


def boards_of_pins(graph):
    return {
        (int(graph.pin_ids[row]), int(graph.board_ids[board]))
        for row in range(graph.n_pins)
        for board in graph.pin_boards[graph.pin_offsets[row] : graph.pin_offsets[row + 1]]
    }


def pins_of_board(graph, row):
    return graph.board_pins[graph.board_offsets[row] : graph.board_offsets[row + 1]].tolist()


@settings(max_examples=150, deadline=None)
@given(edges_and_features)
def test_both_directions_hold_each_pair_once(case):
    edges, features = case
    graph = built(edges, features)
    assert graph.n_edges == len(set(edges)) == len(graph.board_pins)
    assert graph.pin_ids.tolist() == sorted({pin for pin, _ in edges})
    assert graph.board_ids.tolist() == sorted({board for _, board in edges})
    assert boards_of_pins(graph) == set(edges)
    found = {
        (int(graph.pin_ids[pin]), int(graph.board_ids[row]))
        for row in range(graph.n_boards)
        for pin in pins_of_board(graph, row)
    }
    assert found == set(edges)
    for name, dtype in ARRAY_TYPES.items():
        assert getattr(graph, name).dtype == dtype


@settings(max_examples=150, deadline=None)
@given(edges_and_features)
def test_the_pins_of_a_board_that_have_a_feature_are_one_range(case):
    edges, features = case
    graph = built(edges, features)
    assert graph.pin_features.tolist() == [features.get(pin, NO_FEATURE) for pin in graph.pin_ids.tolist()]
    for row in range(graph.n_boards):
        pins = pins_of_board(graph, row)
        keys = [(features.get(int(graph.pin_ids[pin]), NO_FEATURE), pin) for pin in pins]
        assert keys == sorted(keys)
    for feature in range(NO_FEATURE, 6):
        boards, starts, lengths = graph.runs_of(feature)
        assert boards.tolist() == sorted(set(boards.tolist()))
        ranges = {
            int(board): pins_of_board(graph, board)[start : start + length]
            for board, start, length in zip(boards, starts, lengths, strict=True)
        }
        for row in range(graph.n_boards):
            fitting = [p for p in pins_of_board(graph, row) if features.get(int(graph.pin_ids[p]), -1) == feature]
            assert ranges.get(row, []) == (fitting if feature != NO_FEATURE else [])


def test_order_and_repetition_of_edges_do_not_matter():
    edges = [(5, 1), (2, 1), (5, 3), (9, 3)]
    features = {9: 7, 2: 7, 5: 1}
    first = built(edges, features)
    second = built([*edges[::-1], *edges], dict(reversed(features.items())))
    for name, array in first.arrays.items():
        np.testing.assert_array_equal(array, second.arrays[name])


def test_rows_and_degrees():
    graph = built([(5, 1), (2, 1), (5, 3), (9, 3)])
    assert graph.pin_rows(np.array([9, 5, 4, 2, 99, -1])).tolist() == [2, 1, -1, 0, -1, -1]
    assert graph.degrees(np.array([1, 2])).tolist() == [2, 1]
    assert (graph.n_pins, graph.n_boards, graph.n_edges) == (3, 2, 4)


def test_ids_of_64_bits_are_kept():
    graph = built([(2**62, -(2**63)), (-(2**63), 2**63 - 1)])
    assert boards_of_pins(graph) == {(2**62, -(2**63)), (-(2**63), 2**63 - 1)}


def test_no_edges_are_a_graph_too():
    graph = built([], {3: 1})
    assert (graph.n_pins, graph.n_boards, graph.n_edges, graph.bytes_per_direction) == (0, 0, 0, 24.0)
    assert graph.pin_rows(np.array([3])).tolist() == [-1]
    assert [len(part) for part in graph.runs_of(1)] == [0, 0, 0]


def test_an_edge_takes_few_bytes():
    rng = np.random.default_rng(0)
    boards = rng.integers(500, size=20_000)
    topics = boards % 20
    pins = topics + 20 * rng.integers(50, size=20_000)
    plain = PinBoardGraph.of(pins, boards)
    assert plain.bytes_per_direction < 6
    # A feature that follows the topic of a board, and one that follows nothing.
    assert PinBoardGraph.of(pins, boards, np.arange(1000), np.arange(1000) % 20).bytes_per_direction < 6.5
    anything = PinBoardGraph.of(pins, boards, np.arange(1000), rng.permutation(1000))
    assert len(anything.run_boards) == anything.n_edges
    assert anything.bytes_per_direction < 16


def test_a_graph_comes_back_from_its_arrays():
    graph = built([(5, 1), (2, 1), (5, 3)], {5: 2})
    again = PinBoardGraph.of_arrays(graph.arrays)
    assert all(again.arrays[name] is array for name, array in graph.arrays.items())
    with pytest.raises(ValueError, match="needs the arrays board_pins, run_boards too"):
        PinBoardGraph.of_arrays({n: a for n, a in graph.arrays.items() if n not in ("board_pins", "run_boards")})
    with pytest.raises(ValueError, match=r"board_pins must be int32 of shape \(3,\), not int64 of \(3,\)"):
        PinBoardGraph.of_arrays({**graph.arrays, "board_pins": graph.board_pins.astype(np.int64)})
    with pytest.raises(ValueError, match=r"pin_offsets must be int64 of shape \(3,\), not int64 of \(2,\)"):
        PinBoardGraph.of_arrays({**graph.arrays, "pin_offsets": graph.pin_offsets[:-1]})
    with pytest.raises(ValueError, match="board_offsets must lead from 0 to 3, not 1 to 4"):
        PinBoardGraph.of_arrays({**graph.arrays, "board_offsets": graph.board_offsets + 1})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 2], [1]), r"pin_ids \(2,\) and board_ids \(1,\) must be one-dimensional and equally long"),
        (([[1]], [[1]]), r"must be one-dimensional"),
        (([1.5], [1]), "pin_ids must be integers, not float64"),
        (([1], ["a"]), "board_ids must be integers, not <U1"),
        (
            ([1], np.array([2**63], np.uint64)),
            "board_ids must fit into 64 bits with a sign, unlike 9223372036854775808",
        ),
        (([1], [1], [1, 2], [3]), r"featured_pin_ids \(2,\) and features \(1,\)"),
        (([1], [1], [1], [-2]), "features must be -1 or not negative, unlike -2"),
        (([1], [1], [4, 1, 4], [1, 1, 1]), "featured_pin_ids must have each pin once, unlike 4"),
    ],
)
def test_what_is_no_graph_is_said(arguments, message):
    with pytest.raises(ValueError, match=message):
        PinBoardGraph.of(*arguments)
