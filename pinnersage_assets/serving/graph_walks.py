"""Pixie's walks over the graph of the served day, one request at a time.

What belongs here: from pins and their weights to the pins of the corpus that walks from them visit most. What does not:
the walks themselves (`model.pixie`), and whose pins they begin at (`recommender`).

Near-duplicates are one pin of the graph, which has the id of the first: walks that would begin at a repeat begin there,
and where they come to it the corpus pin of its group is meant.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pinnersage_assets.model.pin_board_graph import NO_FEATURE, PinBoardGraph
from pinnersage_assets.model.pixie import PixieParameters, Requests, recommend
from pinnersage_assets.model.population import rows_if_known
from pinnersage_assets.serving.pin_files import PinFiles


class NoGraphError(LookupError):
    """There is no graph to walk on; says why, and what to do."""


@dataclass(frozen=True)
class Visited:
    """The v pins that walks visited most."""

    corpus_rows: NDArray[np.int64]
    """(v,) recommendable, the most visited first."""
    scores: NDArray[np.float32]
    """(v,) visits, boosted or not."""
    reason: str | None
    """Why there are none; None where there are some."""


@dataclass(frozen=True)
class GraphWalks:
    """A graph of pins and boards, and what its pins are in the corpus."""

    graph: PinBoardGraph
    pins: PinFiles
    repeat_ids: NDArray[np.int64]
    """(r,) ascending: the near-duplicates."""
    first_ids: NDArray[np.int64]
    """(r,) the pin that each repeats."""
    parameters: PixieParameters

    def firsts_of(self, pin_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The pin of the graph that each pin is, or would be if it had an edge, (m,) int64."""
        rows = rows_if_known(self.repeat_ids, pin_ids)
        found = pin_ids.copy()
        found[rows >= 0] = self.first_ids[rows[rows >= 0]]
        return found

    def have_edges(self, first_ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether pins, as of `firsts_of`, are in the graph, (m,)."""
        return self.graph.pin_rows(first_ids) >= 0

    def visited(
        self,
        first_ids: NDArray[np.int64],
        weights: NDArray[np.float64],
        key: NDArray[np.uint64],
        seen: NDArray[np.int64],
    ) -> Visited:
        """The pins that walks visit most, of those that may be recommended.

        Args:
            first_ids: (n,) where walks begin, as of `firsts_of`, each once; all have edges.
            weights: (n,) w_q.
            key: of the random numbers: with the same one, the same is found.
            seen: rows of the corpus that are left out.
        """
        feature = self._feature(first_ids) if self.parameters.bias else NO_FEATURE
        offsets = np.array([0, len(first_ids)])
        asked = Requests(first_ids, weights, offsets, key.reshape(1), np.array([feature], dtype=np.int64))
        answers = recommend(self.graph, asked, self.parameters)
        # A graph that was made again since may have pins that the day's files do not know: no pin stands for them.
        rows = self.pins.rows_of(answers.pin_ids)
        corpus_rows = np.where(rows >= 0, self.pins.corpus_rows[rows], -1).astype(np.int64)
        kept = np.flatnonzero(corpus_rows >= 0)
        kept = kept[self.pins.recommendable[corpus_rows[kept]] & ~np.isin(corpus_rows[kept], seen)]
        [reason] = answers.reasons
        if not reason and not len(kept):
            reason = f"all {len(rows)} pins that walks visited were seen, or may not be recommended"
        return Visited(corpus_rows[kept], answers.scores[kept], reason or None)

    def _feature(self, first_ids: NDArray[np.int64]) -> int:
        """What most of the pins are about; of what is equally often, the smallest code."""
        features = self.graph.pin_features[self.graph.pin_rows(first_ids)]
        codes, counts = np.unique(features[features != NO_FEATURE], return_counts=True)
        return int(codes[counts.argmax()]) if len(codes) else NO_FEATURE
