"""The graph of pins and the boards that they were saved to, as lists in both directions (Pixie, section 3.3).

A pin or a board is a row; its neighbours stand together in one array, offsets say where each list begins. A board's
pins stand by their feature, so that those that fit a user are one range of its list, and drawing among them costs as
much as drawing among all.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pinnersage_assets.model.population import ranges, rows_if_known, rows_of

NO_FEATURE = -1
"""The feature of a pin that has none: it fits nobody more than others."""

# Rows are int32.
_MOST_ROWS = 2**31 - 1


@dataclass(frozen=True)
class PinBoardGraph:
    """P pins and B boards with E edges; every pin and every board has at least one.

    A run is the pins of one board that have one feature. There are R of them, at most E; few where boards are about
    something.
    """

    pin_ids: NDArray[np.int64]
    """(P,) ascending."""
    board_ids: NDArray[np.int64]
    """(B,) ascending."""
    pin_offsets: NDArray[np.int64]
    """(P + 1,) where the boards of each pin begin, and the end of the last."""
    pin_boards: NDArray[np.int32]
    """(E,) rows of boards, of each pin ascending."""
    board_offsets: NDArray[np.int64]
    """(B + 1,) where the pins of each board begin, and the end of the last."""
    board_pins: NDArray[np.int32]
    """(E,) rows of pins, of each board by feature, then by row; those without a feature first."""
    feature_codes: NDArray[np.int64]
    """(F,) the features that pins have, ascending."""
    feature_offsets: NDArray[np.int64]
    """(F + 1,) where the runs of each feature begin, and the end of the last."""
    run_boards: NDArray[np.int32]
    """(R,) the board of each run, of each feature ascending."""
    run_starts: NDArray[np.int32]
    """(R,) where each begins in its board's list, from 0."""
    run_lengths: NDArray[np.int32]
    """(R,) how many pins each has."""

    @classmethod
    def of(
        cls,
        pin_ids: ArrayLike,
        board_ids: ArrayLike,
        featured_pin_ids: ArrayLike = (),
        features: ArrayLike = (),
    ) -> Self:
        """Build a graph from its edges.

        Args:
            pin_ids: (e,) integers, the pin of each edge, in any order. An edge that is repeated counts once.
            board_ids: (e,) integers, its board.
            featured_pin_ids: (f,) integers, pins that have a feature, each once, in any order. Those that have no edge
                are not in the graph.
            features: (f,) integers, such as codes of languages or categories; `NO_FEATURE`, as for pins that are not
                given, or not negative.

        Raises:
            ValueError: an argument is not as described above; names the argument.
        """
        edge_pins, edge_boards = _pairs(pin_ids, board_ids, "pin_ids", "board_ids")
        pins, boards = _distinct(edge_pins), _distinct(edge_boards)
        if max(len(pins), len(boards)) > _MOST_ROWS:
            raise ValueError(f"{len(pins):,} pins and {len(boards):,} boards are more than the {_MOST_ROWS:,} of int32")
        pin_features = _features_of(pins, *_pairs(featured_pin_ids, features, "featured_pin_ids", "features"))

        # One number an edge sorts faster than two.
        edges = np.sort(rows_of(pins, edge_pins) * max(len(boards), 1) + rows_of(boards, edge_boards))
        edges = edges[np.diff(edges, prepend=-1) > 0]
        of_pin, pin_boards = np.divmod(edges, max(len(boards), 1))
        pin_offsets = np.append(0, np.cumsum(np.bincount(of_pin, minlength=len(pins))))

        # The other way round, with the place of a pin among all pins by feature and row instead of its row.
        by_feature = np.argsort(pin_features, kind="stable")
        places = np.empty_like(by_feature)
        places[by_feature] = np.arange(len(pins))
        edges = np.sort(pin_boards * max(len(pins), 1) + places[of_pin])
        of_board, board_pins = np.divmod(edges, max(len(pins), 1))
        board_pins = by_feature[board_pins]
        board_offsets = np.append(0, np.cumsum(np.bincount(of_board, minlength=len(boards))))

        edge_features = pin_features[board_pins]
        changes = (np.diff(of_board, prepend=-1) != 0) | (np.diff(edge_features, prepend=NO_FEATURE) != 0)
        starts = np.flatnonzero(changes)
        lengths = np.diff(starts, append=len(edges))
        runs = np.flatnonzero(edge_features[starts] != NO_FEATURE)
        runs = runs[np.argsort(edge_features[starts[runs]], kind="stable")]
        starts, lengths = starts[runs], lengths[runs]
        feature_codes, runs_of_feature = np.unique(edge_features[starts], return_counts=True)
        return cls(
            pin_ids=pins,
            board_ids=boards,
            pin_offsets=pin_offsets.astype(np.int64),
            pin_boards=pin_boards.astype(np.int32),
            board_offsets=board_offsets.astype(np.int64),
            board_pins=board_pins.astype(np.int32),
            feature_codes=feature_codes,
            feature_offsets=np.append(0, np.cumsum(runs_of_feature)).astype(np.int64),
            run_boards=of_board[starts].astype(np.int32),
            run_starts=(starts - board_offsets[of_board[starts]]).astype(np.int32),
            run_lengths=lengths.astype(np.int32),
        )

    @property
    def arrays(self) -> dict[str, NDArray]:
        """All there is, by name: for a file."""
        return {name: getattr(self, name) for name in ARRAY_TYPES}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray]) -> Self:
        """From `arrays`, as they are: neither copied nor read.

        Raises:
            ValueError: arrays are missing, or of types or lengths that do not fit each other; names one.
        """
        if missing := ARRAY_TYPES.keys() - arrays.keys():
            raise ValueError(f"a graph needs the arrays {', '.join(sorted(missing))} too")
        graph = cls(**{name: arrays[name] for name in ARRAY_TYPES})
        lengths = {
            "pin_offsets": graph.n_pins + 1,
            "board_offsets": graph.n_boards + 1,
            "board_pins": graph.n_edges,
            "feature_offsets": len(graph.feature_codes) + 1,
            "run_starts": len(graph.run_boards),
            "run_lengths": len(graph.run_boards),
        }
        for name, dtype in ARRAY_TYPES.items():
            array = arrays[name]
            shape = (lengths.get(name, len(array)),)
            if array.dtype != dtype or array.shape != shape:
                raise ValueError(f"{name} must be {dtype} of shape {shape}, not {array.dtype} of {array.shape}")
        for name, total in (
            ("pin_offsets", graph.n_edges),
            ("board_offsets", graph.n_edges),
            ("feature_offsets", len(graph.run_boards)),
        ):
            if (arrays[name][0], arrays[name][-1]) != (0, total):
                raise ValueError(f"{name} must lead from 0 to {total:,}, not {arrays[name][0]:,} to {arrays[name][-1]}")
        return graph

    @property
    def n_pins(self) -> int:
        """The number P of pins."""
        return len(self.pin_ids)

    @property
    def n_boards(self) -> int:
        """The number B of boards."""
        return len(self.board_ids)

    @property
    def n_edges(self) -> int:
        """The number E of edges; each is there in both directions."""
        return len(self.pin_boards)

    @property
    def bytes_per_direction(self) -> float:
        """Bytes of all arrays, ids and features included, to an edge in one direction."""
        return sum(array.nbytes for array in self.arrays.values()) / max(2 * self.n_edges, 1)

    @cached_property
    def largest_degree(self) -> int:
        """The most boards that a pin is on; 0 where there are no pins."""
        return int(np.diff(self.pin_offsets).max(initial=0))

    @cached_property
    def pin_features(self) -> NDArray[np.int64]:
        """The feature of each pin, (P,) int64; `NO_FEATURE` of those without one."""
        found = np.full(self.n_pins, NO_FEATURE, dtype=np.int64)
        places = ranges(self.board_offsets[self.run_boards] + self.run_starts, self.run_lengths.astype(np.int64))
        of_run = np.repeat(self.feature_codes, np.diff(self.feature_offsets))
        found[self.board_pins[places]] = np.repeat(of_run, self.run_lengths)
        return found

    def pin_rows(self, pin_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row of each pin, (n,) int64; -1 of those that are not in the graph."""
        return rows_if_known(self.pin_ids, pin_ids)

    def degrees(self, pin_rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The number of boards of pins, (n,) int64."""
        return self.pin_offsets[pin_rows + 1] - self.pin_offsets[pin_rows]

    def runs_of(self, feature: int) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
        """Of the boards that have pins of a feature: rows, ascending, and where in the lists these begin, how many.

        Empty for a feature that no pin has, `NO_FEATURE` included.
        """
        place = int(rows_if_known(self.feature_codes, np.array([feature], dtype=np.int64))[0])
        own = slice(self.feature_offsets[place], self.feature_offsets[place + 1]) if place >= 0 else slice(0)
        return self.run_boards[own], self.run_starts[own], self.run_lengths[own]


ARRAY_TYPES: dict[str, np.dtype] = {
    field.name: np.dtype(
        np.int32 if field.name in ("pin_boards", "board_pins", "run_boards", "run_starts", "run_lengths") else np.int64
    )
    for field in fields(PinBoardGraph)
}
"""The arrays of a graph and their types."""


def _pairs(first: ArrayLike, second: ArrayLike, *names: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Two arrays that stand beside each other, as int64."""
    arrays = []
    for name, values in zip(names, (first, second), strict=True):
        array = np.asarray(values)
        # NumPy gives what is empty the type float64.
        if array.size and array.dtype.kind not in "iu":
            raise ValueError(f"{name} must be integers, not {array.dtype}")
        if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
            raise ValueError(f"{name} must fit into 64 bits with a sign, unlike {array.max()}")
        arrays.append(array.astype(np.int64, copy=False))
    if arrays[0].ndim != 1 or arrays[0].shape != arrays[1].shape:
        raise ValueError(
            f"{names[0]} {arrays[0].shape} and {names[1]} {arrays[1].shape} must be one-dimensional and equally long"
        )
    return arrays[0], arrays[1]


def _distinct(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each once, ascending: `unique` hashes, which takes longer."""
    ids = np.sort(ids)
    return ids[np.append(True, ids[1:] != ids[:-1])[: len(ids)]]


def _features_of(
    pins: NDArray[np.int64], featured: NDArray[np.int64], features: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The feature of each pin of the graph."""
    if features.min(initial=0) < NO_FEATURE:
        raise ValueError(f"features must be {NO_FEATURE} or not negative, unlike {features.min()}")
    order = np.argsort(featured, kind="stable")
    repeated = np.flatnonzero(np.diff(featured[order]) == 0)
    if len(repeated):
        raise ValueError(f"featured_pin_ids must have each pin once, unlike {featured[order[repeated[0]]]}")
    found = np.full(len(pins), NO_FEATURE, dtype=np.int64)
    rows = rows_if_known(pins, featured)
    found[rows[rows >= 0]] = features[rows >= 0]
    return found
