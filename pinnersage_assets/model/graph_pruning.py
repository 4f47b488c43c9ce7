"""What a graph of pins and boards is better off without (Pixie, section 3.2).

Boards that are about anything lead a walk away from what it began with, and a pin that everybody saved is on many
boards that are about something else. The first go as a whole; of the second the edges to the boards that are least
like the pin.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pinnersage_assets.model.population import batches, offsets_of
from pinnersage_assets.model.selected_vectors import Vectors

# The topic of a pin that has none.
NO_TOPIC = -1

# A pin keeps the ceiling of a power of its degree: one that is a whole number may come out a little above it.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Pruning:
    """Which edges stay, and what went."""

    kept: NDArray[np.bool_]
    """(e,) of each edge, whether it stays; of edges that are repeated the first at most."""
    repeated_edges: int
    """Edges that were there before."""
    diverse_boards: int
    """Boards that went for their entropy."""
    diverse_edges: int
    """Edges that went with them."""
    far_edges: int
    """Edges that went because the pin has others to boards that are nearer to it."""


def pruned(
    pin_rows: NDArray[np.int64],
    board_rows: NDArray[np.int64],
    topics: ArrayLike,
    vectors: Vectors,
    largest_entropy: float = math.inf,
    degree_exponent: float = 1.0,
) -> Pruning:
    """Prune a graph: first boards, then what is left of the edges of each pin.

    Args:
        pin_rows: (e,) of each edge the row of its pin in ``topics`` and ``vectors``.
        board_rows: (e,) the number of its board, from 0.
        topics: (n,) integers, as of `board_entropies`.
        vectors: (n, d) embeddings or topic distributions of pins, not necessarily of unit length; zeros where there is
            none.
        largest_entropy: boards above it go, in nats. ``np.quantile(board_entropies(...), 1 - share)`` is that of a
            share of the boards; infinity keeps all.
        degree_exponent: δ, in (0, 1]: of a pin of degree g the ⌈g^δ⌉ edges stay whose boards are nearest to it, by the
            cosine of its vector to the mean vector of the board's pins; equally near ones by the board's number. A pin
            without a vector, or a board without a mean, has the cosine 0. 1 keeps all edges.

    Raises:
        ValueError: an argument is not as described above; names the argument.
    """
    topics = np.asarray(topics)
    _check(pin_rows, board_rows, topics)
    if vectors.ndim != 2 or len(vectors) != len(topics):
        raise ValueError(f"vectors must be of shape ({len(topics)}, d), a row a pin, not {vectors.shape}")
    if not 0 < degree_exponent <= 1:
        raise ValueError(f"degree_exponent must be above 0 and at most 1, not {degree_exponent}")
    if not largest_entropy >= 0:
        raise ValueError(f"largest_entropy must not be negative, but is {largest_entropy}")

    order = _sorted_once(pin_rows, board_rows)
    repeated = len(pin_rows) - len(order)
    pins, boards = pin_rows[order], board_rows[order]
    diverse = _entropies(pins, boards, topics) > largest_entropy
    stays = ~diverse[boards]
    order, pins, boards = order[stays], pins[stays], boards[stays]
    near = _near(pins, boards, vectors, degree_exponent)
    kept = np.zeros(len(pin_rows), dtype=bool)
    kept[order[near]] = True
    return Pruning(
        kept,
        repeated_edges=repeated,
        diverse_boards=int(diverse.sum()),
        diverse_edges=int((~stays).sum()),
        far_edges=int((~near).sum()),
    )


def board_entropies(
    pin_rows: NDArray[np.int64], board_rows: NDArray[np.int64], topics: ArrayLike
) -> NDArray[np.float64]:
    """How diverse boards are: the entropy -Σ p ln p of the topics of their pins.

    Args:
        pin_rows: (e,) of each edge the row of its pin in ``topics``; an edge that is repeated counts once.
        board_rows: (e,) the number of its board, from 0.
        topics: (n,) integers, the topic of each pin; of those that have none `NO_TOPIC`: they do not count.

    Returns:
        (boards,) nats; 0 of boards whose pins have no topics.

    Raises:
        ValueError: an argument is not as described above; names the argument.
    """
    topics = np.asarray(topics)
    _check(pin_rows, board_rows, topics)
    order = _sorted_once(pin_rows, board_rows)
    return _entropies(pin_rows[order], board_rows[order], topics)


def _check(pin_rows: NDArray[np.int64], board_rows: NDArray[np.int64], topics: NDArray) -> None:
    if topics.ndim != 1 or (topics.size and topics.dtype.kind not in "iu"):
        raise ValueError(f"topics must be integers of shape (n,), not {topics.dtype} of {topics.shape}")
    if topics.min(initial=NO_TOPIC) < NO_TOPIC:
        raise ValueError(f"topics must be {NO_TOPIC} or not negative, unlike {topics.min()}")
    if pin_rows.ndim != 1 or pin_rows.shape != board_rows.shape:
        raise ValueError(
            f"pin_rows {pin_rows.shape} and board_rows {board_rows.shape} must be one-dimensional and equally long"
        )
    for name, rows in (("pin_rows", pin_rows), ("board_rows", board_rows)):
        if rows.size and rows.dtype.kind not in "iu":
            raise ValueError(f"{name} must be integers, not {rows.dtype}")
        if rows.min(initial=0) < 0:
            raise ValueError(f"{name} must not be negative, unlike {rows.min()}")
    if pin_rows.max(initial=-1) >= len(topics):
        raise ValueError(f"pin_rows must be below the {len(topics)} pins that topics are of, unlike {pin_rows.max()}")


def _sorted_once(pin_rows: NDArray[np.int64], board_rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where edges stand, by board and then by pin; of what is repeated the first."""
    order = np.lexsort((pin_rows, board_rows))
    pins, boards = pin_rows[order], board_rows[order]
    return order[np.append(True, (np.diff(pins) != 0) | (np.diff(boards) != 0))[: len(order)]]


def _entropies(pins: NDArray[np.int64], boards: NDArray[np.int64], topics: NDArray) -> NDArray[np.float64]:
    """As `board_entropies`, of edges that are there once."""
    n_boards = int(boards.max(initial=-1)) + 1
    known = topics[pins] != NO_TOPIC
    boards, of_edge = boards[known], topics[pins[known]]
    order = np.lexsort((of_edge, boards))
    boards, of_edge = boards[order], of_edge[order]
    starts = np.flatnonzero(np.append(True, (np.diff(boards) != 0) | (np.diff(of_edge) != 0))[: len(boards)])
    counts = np.diff(starts, append=len(boards))
    shares = counts / np.bincount(boards, minlength=n_boards)[boards[starts]]
    return np.bincount(boards[starts], weights=-shares * np.log(shares), minlength=n_boards).astype(np.float64)


def _near(
    pins: NDArray[np.int64], boards: NDArray[np.int64], vectors: Vectors, degree_exponent: float
) -> NDArray[np.bool_]:
    """Which edges, sorted by board and each there once, are among the nearest of their pin."""
    degrees = np.bincount(pins, minlength=len(vectors))
    most = np.ceil(degrees**degree_exponent - _ROUNDING).astype(np.int64)
    # The others need no cosines.
    losing = np.flatnonzero((most < degrees)[pins])
    near = np.ones(len(pins), dtype=bool)
    if len(losing):
        cosines = _cosines(pins, boards, vectors)[losing]
        # The sort is stable: equally near boards stay in their order.
        order = losing[np.lexsort((-cosines, pins[losing]))]
        own = pins[order]
        starts = offsets_of(own)
        places = np.arange(len(own)) - np.repeat(starts[:-1], np.diff(starts))
        near[order[places >= most[own]]] = False
    return near


def _cosines(pins: NDArray[np.int64], boards: NDArray[np.int64], vectors: Vectors) -> NDArray[np.float64]:
    """Of each edge, sorted by board, the cosine of the pin's vector and the mean of the board's."""
    cosines = np.empty(len(pins))
    offsets = offsets_of(boards)
    for first, last in batches(offsets):
        own = slice(offsets[first], offsets[last])
        gathered = vectors[pins[own]].astype(np.float64)
        # Of a mean the length does not matter: the sum will do.
        sums = np.add.reduceat(gathered, offsets[first:last] - offsets[first], axis=0)
        of_board = np.repeat(np.arange(last - first), np.diff(offsets[first : last + 1]))
        products = np.einsum("ed,ed->e", gathered, sums[of_board])
        lengths = np.linalg.norm(gathered, axis=1) * np.linalg.norm(sums, axis=1)[of_board]
        cosines[own] = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    return cosines
