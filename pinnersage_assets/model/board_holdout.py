"""Boards by whose last pin models are judged (Pixie, section 4): given those before it, would it have been recommended?

Plain arrays over boards numbered 0 to B - 1, so that any of them can be taken apart from the others, and judged
elsewhere. All that models recommend is of one corpus, and not on the board yet: what is found says who ranks it better,
not who has more to choose from.
"""

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pinnersage_assets.model.pin_board_graph import NO_FEATURE
from pinnersage_assets.model.pixie import Requests
from pinnersage_assets.model.population import offsets_of, rows_if_known
from pinnersage_assets.model.randomness import keyed_bits, keyed_uniform

NOT_FOUND = 0
"""The rank of a pin that was not recommended; others count from 1."""


@dataclass(frozen=True)
class JudgedBoards:
    """B boards, and what was on each before the pin that is held out."""

    board_ids: NDArray[np.int64]
    """(B,) ascending."""
    user_ids: NDArray[np.int64]
    """(B,) who saved the pin that is held out."""
    held_out: NDArray[np.int64]
    """(B,) that pin."""
    of_board: NDArray[np.int64]
    """(p,) numbers of boards, ascending, each at least once: of each pin that was on it before."""
    pin_ids: NDArray[np.int64]
    """(p,) of a board the latest first."""
    ages: NDArray[np.float64]
    """(p,) days from when it was saved to the one that is held out."""
    is_query: NDArray[np.bool_]
    """(p,) whether it is among the latest, which models begin with."""

    @classmethod
    def of(
        cls,
        board_ids: NDArray[np.int64],
        pin_ids: NDArray[np.int64],
        user_ids: NDArray[np.int64],
        days: NDArray[np.float64],
        most_query_pins: int,
        keys: tuple[int, ...],
    ) -> Self:
        """Hold out the last pin of each board.

        Args:
            board_ids: (e,) of each edge its board; each has two edges at least.
            pin_ids: (e,) its pin, on a board once.
            user_ids: (e,) who saved it.
            days: (e,) when. Of pins of one moment, as those of a basket are, the order is up to chance.
            most_query_pins: of a board, the latest.
            keys: what is random belongs to these.

        Raises:
            ValueError: a board has a single pin; names one.
        """
        chance = keyed_uniform("held-out pins", *keys, board_ids, pin_ids)
        order = np.lexsort((chance, -days, board_ids))
        boards, pins, users, days = board_ids[order], pin_ids[order], user_ids[order], days[order]
        offsets = offsets_of(boards)
        sizes, last = np.diff(offsets), offsets[:-1]
        if (sizes < 2).any():
            raise ValueError(f"board {boards[last[sizes < 2][0]]} has one pin: there is nothing to begin with")
        of_board = np.repeat(np.arange(len(sizes)), sizes)
        before = np.ones(len(boards), dtype=bool)
        before[last] = False
        places = np.arange(len(boards)) - last[of_board]
        return cls(
            board_ids=boards[last],
            user_ids=users[last],
            held_out=pins[last],
            of_board=of_board[before],
            pin_ids=pins[before],
            ages=(days[last][of_board] - days)[before],
            is_query=(places <= most_query_pins)[before],
        )

    def __len__(self) -> int:
        return len(self.board_ids)

    def part(self, first: int, last: int) -> "JudgedBoards":
        """Boards from first up to last, and their pins alone."""
        own = slice(*np.searchsorted(self.of_board, [first, last]))
        return JudgedBoards(
            board_ids=self.board_ids[first:last],
            user_ids=self.user_ids[first:last],
            held_out=self.held_out[first:last],
            of_board=self.of_board[own] - first,
            pin_ids=self.pin_ids[own],
            ages=self.ages[own],
            is_query=self.is_query[own],
        )

    @classmethod
    def of_arrays(cls, arrays) -> Self:
        """From what `arrays` gave, among others perhaps."""
        return cls(**{field.name: arrays[field.name] for field in fields(cls)})

    @property
    def arrays(self) -> dict[str, NDArray]:
        """All there is, by name: for a file."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def requests(
        self, features: NDArray[np.int64], decay_per_day: float, equal: bool, keys: tuple[int, ...]
    ) -> Requests:
        """What Pixie is asked for the boards.

        Args:
            features: (B,) what fits each.
            decay_per_day: λ: a query pin of age t weighs exp(-λ t).
            equal: or whether all weigh the same.
            keys: what is random belongs to these, and to the board.
        """
        ages = self.ages[self.is_query]
        return Requests(
            pin_ids=self.pin_ids[self.is_query],
            weights=np.ones(len(ages)) if equal else np.exp(-decay_per_day * ages),
            offsets=offsets_of(self.of_board[self.is_query]),
            keys=keyed_bits("board", *keys, self.board_ids),
            features=features,
        )

    def features(self, of_pins: NDArray[np.int64]) -> NDArray[np.int64]:
        """The feature that most query pins of each board have, (B,); of several the smallest.

        Args:
            of_pins: (p,) the feature of each pin that was on a board; `NO_FEATURE` does not count.
        """
        known = self.is_query & (of_pins != NO_FEATURE)
        pairs, counts = np.unique(np.stack([self.of_board[known], of_pins[known]], axis=1), axis=0, return_counts=True)
        order = np.lexsort((pairs[:, 1], -counts, pairs[:, 0]))
        boards, first = np.unique(pairs[order, 0], return_index=True)
        found = np.full(len(self), NO_FEATURE, dtype=np.int64)
        found[boards] = pairs[order[first], 1]
        return found

    def centres(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """The mean of each board's query pins, of unit length, (B, n); zeros where they cancel out.

        Args:
            vectors: (q, n) of all query pins, in their order.
        """
        sums = np.add.reduceat(vectors, offsets_of(self.of_board[self.is_query])[:-1], axis=0, dtype=np.float64)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        return np.divide(sums, lengths, out=np.zeros_like(sums), where=lengths > 0).astype(np.float32)

    def most_on_a_board(self) -> int:
        """The most pins that were on one: a list that is so much longer than wanted is long enough."""
        return int(np.bincount(self.of_board).max(initial=0))

    def ranks(
        self, of_board: NDArray[np.int64], pin_ids: NDArray[np.int64], corpus_ids: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Where the held-out pins stand in recommendations, (B,), from 1; `NOT_FOUND` of those that are not there.

        Pins that are not in the corpus, or on the board already, are left out, and do not count.

        Args:
            of_board: (r,) numbers of boards, ascending.
            pin_ids: (r,) what is recommended for it, best first, each once.
            corpus_ids: (m,) ascending: what may be.
        """
        rows = rows_if_known(corpus_ids, pin_ids)
        on_board = rows_if_known(corpus_ids, self.pin_ids)
        # One number a board and corpus pin; what is not in the corpus has none.
        there, own = rows >= 0, on_board >= 0
        of_board, rows = of_board[there], rows[there]
        codes = of_board * len(corpus_ids) + rows
        new = ~np.isin(codes, self.of_board[own] * len(corpus_ids) + on_board[own])
        of_board, rows = of_board[new], rows[new]
        places = np.arange(len(of_board)) - np.searchsorted(of_board, of_board)
        hit = np.flatnonzero(rows == rows_if_known(corpus_ids, self.held_out)[of_board])
        found = np.full(len(self), NOT_FOUND, dtype=np.int64)
        found[of_board[hit]] = places[hit] + 1
        return found

    def random_ranks(self, corpus_ids: NDArray[np.int64], keys: tuple[int, ...]) -> NDArray[np.int64]:
        """As `ranks`, of recommendations in an order that is up to chance: each rank is as likely.

        Args:
            corpus_ids: (m,) ascending.
            keys: what is random belongs to these, and to the board.
        """
        on_board = np.bincount(self.of_board[np.isin(self.pin_ids, corpus_ids)], minlength=len(self))
        choices = len(corpus_ids) - on_board
        drawn = 1 + (keyed_uniform("random ranks", *keys, self.board_ids) * choices).astype(np.int64)
        return np.where(np.isin(self.held_out, corpus_ids), drawn, NOT_FOUND)
