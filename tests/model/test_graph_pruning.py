"""Pruning, against the paper's words as loops."""

import math

import numpy as np
import pytest

from pinnersage_assets.model.graph_pruning import NO_TOPIC, board_entropies, pruned
from pinnersage_assets.model.pin_board_graph import PinBoardGraph

PINS, BOARDS, TOPICS, D = 40, 25, 5, 6


@pytest.fixture(params=range(5))
def world(request):
    """Pin rows and boards of edges (some of them repeated), topics (some unknown) and vectors (some zero)."""
    rng = np.random.default_rng(request.param)
    pins, boards = rng.integers(PINS, size=400), rng.integers(BOARDS, size=400)
    topics = rng.integers(NO_TOPIC, TOPICS, size=PINS)
    vectors = rng.standard_normal((PINS, D)).astype(np.float32)
    vectors[rng.integers(PINS, size=3)] = 0
    return pins, boards, topics, vectors


def entropy_of(pins, topics):
    known = [topics[pin] for pin in sorted(pins) if topics[pin] != NO_TOPIC]
    return -sum(known.count(t) / len(known) * math.log(known.count(t) / len(known)) for t in set(known))


def cosine(a, b):
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return a @ b / lengths if lengths else 0.0


def kept_by_loops(pins, boards, topics, vectors, largest_entropy, degree_exponent):
    edges = set(zip(pins.tolist(), boards.tolist(), strict=True))
    members = {board: {p for p, b in edges if b == board} for board in range(BOARDS)}
    members = {board: own for board, own in members.items() if entropy_of(own, topics) <= largest_entropy}
    means = {board: vectors[sorted(own)].astype(float).mean(axis=0) for board, own in members.items() if own}
    kept = set()
    for pin in range(PINS):
        own = sorted(board for board, of_board in members.items() if pin in of_board)
        own.sort(key=lambda board: -cosine(vectors[pin].astype(float), means[board]))
        kept |= {(pin, board) for board in own[: math.ceil(len(own) ** degree_exponent)]}
    return kept


@pytest.mark.parametrize(
    ("largest_entropy", "exponent"), [(math.inf, 1.0), (1.4, 1.0), (math.inf, 0.91), (1.45, 0.5), (0.0, 0.91)]
)
def test_edges_that_stay_are_those_of_loops(world, largest_entropy, exponent):
    pins, boards, topics, _ = world
    found = pruned(*world, largest_entropy, exponent)
    kept = list(zip(pins[found.kept].tolist(), boards[found.kept].tolist(), strict=True))
    assert len(set(kept)) == len(kept)
    assert set(kept) == kept_by_loops(*world, largest_entropy, exponent)
    assert found.repeated_edges == 400 - len(set(zip(pins.tolist(), boards.tolist(), strict=True)))
    assert found.kept.sum() + found.repeated_edges + found.diverse_edges + found.far_edges == 400
    entropies = board_entropies(pins, boards, topics)
    assert found.diverse_boards == (entropies > largest_entropy).sum()


def test_entropies_are_those_of_the_formula(world):
    pins, boards, topics, _ = world
    members = [set(pins[boards == board].tolist()) for board in range(boards.max() + 1)]
    np.testing.assert_allclose(
        board_entropies(pins, boards, topics), [entropy_of(own, topics) for own in members], atol=1e-12
    )


def test_entropies_by_hand():
    pins, boards = np.array([0, 1, 0, 1, 2, 3, 3, 3]), np.array([0, 0, 1, 1, 1, 1, 3, 3])
    entropies = board_entropies(pins, boards, [4, 4, 2, NO_TOPIC])
    np.testing.assert_allclose(entropies, [0, -(2 / 3) * math.log(2 / 3) - math.log(1 / 3) / 3, 0, 0])
    assert not np.signbit(entropies).any()


def test_nothing_goes_unless_asked(world):
    found = pruned(*world)
    assert (found.diverse_boards, found.diverse_edges, found.far_edges) == (0, 0, 0)


def test_degrees_are_the_ceilings_of_their_powers():
    # A pin of degree 8 keeps 2 at δ = 1/3, though the power comes out a little above; another keeps all of its one.
    pins, boards = np.append(np.zeros(8, int), 1), np.append(np.arange(8), 0)
    assert pruned(pins, boards, [0, 0], np.ones((2, 1)), degree_exponent=1 / 3).kept.tolist() == [1, 1, *6 * [0], 1]
    for degree in (1, 2, 3, 10, 100, 1000):
        found = pruned(np.zeros(degree, int), np.arange(degree), [0], np.ones((1, 1)), degree_exponent=0.91)
        assert found.kept.sum() == math.ceil(degree**0.91)


def test_a_pin_keeps_the_board_that_it_is_alike():
    vectors = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]])
    # Pin 0 is on the boards of pin 1, of pins 2 and 3, and on one of its own.
    pins, boards = np.array([0, 2, 3, 0, 1, 0]), np.array([0, 0, 0, 1, 1, 2])
    found = pruned(pins, boards, np.zeros(4, int), vectors, degree_exponent=0.5)
    assert found.kept.tolist() == [False, True, True, True, True, True]
    assert found.far_edges == 1


def test_the_order_of_edges_does_not_matter(world):
    pins, boards, *rest = world
    order = np.random.default_rng(9).permutation(len(pins))
    first, second = (pruned(p, b, *rest, 1.45, 0.7) for p, b in ((pins, boards), (pins[order], boards[order])))
    graphs = [
        PinBoardGraph.of(pins[first.kept], boards[first.kept]),
        PinBoardGraph.of(pins[order][second.kept], boards[order][second.kept]),
    ]
    for one, other in zip(*(graph.arrays.values() for graph in graphs), strict=True):
        np.testing.assert_array_equal(one, other)


def test_no_edges_at_all():
    nothing = np.empty(0, np.int64)
    found = pruned(nothing, nothing, [0, 1], np.ones((2, 3)), 0.5, 0.5)
    assert (found.kept.shape, found.diverse_boards, found.far_edges) == ((0,), 0, 0)
    assert board_entropies(nothing, nothing, nothing).shape == (0,)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"topics": [[0]]}, r"topics must be integers of shape \(n,\), not int64 of \(1, 1\)"),
        ({"topics": [0.5, 1.0]}, "topics must be integers"),
        ({"topics": [0, -2]}, "topics must be -1 or not negative, unlike -2"),
        ({"pin_rows": np.array([0])}, r"pin_rows \(1,\) and board_rows \(2,\)"),
        ({"pin_rows": np.array([0, 2])}, "pin_rows must be below the 2 pins that topics are of, unlike 2"),
        ({"pin_rows": np.array([0.0, 1.0])}, "pin_rows must be integers, not float64"),
        ({"board_rows": np.array([0, -1])}, "board_rows must not be negative, unlike -1"),
        ({"vectors": np.ones((3, 2))}, r"vectors must be of shape \(2, d\), a row a pin, not \(3, 2\)"),
        ({"degree_exponent": 0}, "degree_exponent must be above 0 and at most 1, not 0"),
        ({"degree_exponent": 1.1}, "degree_exponent must be above 0 and at most 1, not 1.1"),
        ({"largest_entropy": -0.1}, "largest_entropy must not be negative, but is -0.1"),
        ({"largest_entropy": math.nan}, "largest_entropy must not be negative, but is nan"),
    ],
)
def test_what_cannot_be_pruned_is_said(changed, message):
    right = {"pin_rows": np.array([0, 1]), "board_rows": np.array([0, 0]), "topics": [0, 1], "vectors": np.ones((2, 2))}
    with pytest.raises(ValueError, match=message):
        pruned(**{**right, **changed})
