"""The models of the retrieval task (paper, Table 4), each as the candidate sets that it gives.

A model is a function of what was known; adding one is one line in `MODELS`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pinnersage_assets.model.population import offsets_of
from pinnersage_assets.model.retrieval_metrics import Pairs, first_unseen, nearest_unseen, random_rows
from pinnersage_assets.model.single_embeddings import decay_averages


@dataclass(frozen=True)
class Knowledge:
    """What models may know as of a day, for the users to be judged (numbered in the order of ``users``)."""

    users: NDArray[np.int64]
    corpus_ids: NDArray[np.int64]
    corpus: NDArray[np.float32]
    search: Callable[[NDArray[np.float32], int], NDArray[np.int64]]
    """(queries, k) -> (q, k) nearest corpus rows, nearest first."""
    seen: Pairs
    actions: pl.DataFrame
    """user (number), pin_row, age; of a user the latest first."""
    vectors: NDArray[np.float32]
    """(pins, d), what ``pin_row`` points at."""
    recommended: Pairs
    """What PinnerSage recommended."""
    popular: NDArray[np.int64]
    """All corpus rows, the most acted on first."""
    budget: int
    decay_per_day: float
    keys: tuple[int, ...]
    """Seed and day, for what is random."""


def _last_pin(known: Knowledge) -> Pairs:
    last = known.actions.group_by("user", maintain_order=True).first()
    return _search(known, last["user"], known.vectors[last["pin_row"].to_numpy()])


def _decay_average(known: Knowledge) -> Pairs:
    users, rows, ages = (known.actions[name].to_numpy() for name in ("user", "pin_row", "age"))
    averages = decay_averages(known.vectors, rows, ages, offsets_of(users), known.decay_per_day)
    return _search(known, known.actions["user"].unique(maintain_order=True), averages)


def _pinnersage(known: Knowledge) -> Pairs:
    return known.recommended


def _search(known: Knowledge, users: pl.Series, queries: NDArray[np.float32]) -> Pairs:
    wanted = np.full(len(queries), known.budget)
    return nearest_unseen(queries, users.to_numpy(), wanted, len(known.corpus), known.seen, known.search)


def _random(known: Knowledge) -> Pairs:
    keys = [(*known.keys, user) for user in known.users]
    return _unseen(known, random_rows(len(known.corpus), _depth(known), keys))


def _popular(known: Knowledge) -> Pairs:
    best = known.popular[: _depth(known)]
    return _unseen(known, np.broadcast_to(best, (len(known.users), len(best))))


def _depth(known: Knowledge) -> int:
    """Candidates that are enough for every user, seen ones taken out."""
    return known.budget + int(np.bincount(known.seen.users).max(initial=0))


def _unseen(known: Knowledge, candidates: NDArray[np.int64]) -> Pairs:
    users = np.arange(len(known.users))
    return first_unseen(candidates, users, np.full(len(users), known.budget), known.seen, len(known.corpus))


MODELS: dict[str, Callable[[Knowledge], Pairs]] = {
    "last_pin": _last_pin,
    "decay_average": _decay_average,
    "pinnersage": _pinnersage,
    "random": _random,
    "popular": _popular,
}
