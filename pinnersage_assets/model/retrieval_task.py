"""The candidate retrieval task (paper, section 5.3.1, Table 4): what candidate sets foresee of users' next actions.

Each embedding of a user is searched for once, as deep as the budget; every variant, seed, e and way to share out the
budget is then a choice among these lists. Users are judged one after another, in batches of bounded memory.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pinnersage_assets.model.candidates import shares
from pinnersage_assets.model.population import batches, ranges
from pinnersage_assets.model.user_sets import Pairs
from pinnersage_assets.model.variants import MEDOIDS, Embeddings, UserEmbeddings, Variant

# Lists of neighbours that are held at once; each is as long as the budget and the pins seen.
_LISTS_AT_ONCE = 8_192
# Users whose targets are held against the corpus at once.
_USERS_AT_ONCE = 256
# Share of users for whom the neighbours of shared pins are deep enough.
_SHALLOW_USERS = 0.95

Search = Callable[[NDArray[np.float32], int], NDArray[np.int64]]
"""(queries, k) -> (q, min(k, m)) nearest corpus rows, nearest first."""


@dataclass(frozen=True)
class Targets:
    """What users did next: the pins that a good candidate set contains.

    ``users`` (t,) ascending; ``corpus_rows`` (t,) where the pin stands in the corpus, -1 if it does not; ``vectors``
    (t, d) its unit vector, zero where it has none, which no candidate is near.
    """

    users: NDArray[np.int64]
    corpus_rows: NDArray[np.int64]
    vectors: NDArray[np.float32]


@dataclass(frozen=True)
class RetrievalTask:
    """What is asked of every model: U users, numbered 0 to U - 1, and what they did next.

    ``corpus`` (m, d) unit vectors; ``seen`` corpus rows that a user must not be recommended; ``budget`` pins a user;
    a target is relevant with a candidate at ``relevance_cosine`` or above.
    """

    users: int
    corpus: NDArray[np.float32]
    seen: Pairs
    targets: Targets
    budget: int
    relevance_cosine: float


@dataclass(frozen=True)
class SetCounts:
    """Per set and user, (S, U) int32 each: targets that are relevant and recalled, and the size of the set."""

    relevant: NDArray[np.int32]
    recalled: NDArray[np.int32]
    set_size: NDArray[np.int32]

    @classmethod
    def empty(cls, sets: int, users: int) -> "SetCounts":
        """All zero."""
        return cls(*(np.zeros((sets, users), dtype=np.int32) for _ in range(3)))


def judge_variants(
    population: UserEmbeddings,
    user_ids: NDArray[np.int64],
    variants: Mapping[str, Variant],
    keys_of_seeds: Mapping[int, tuple[int, ...]],
    task: RetrievalTask,
    search: Search,
    on_progress: Callable[[int, int], object],
    keep: Callable[[str, int, int, NDArray[np.int64]], object] | None = None,
) -> tuple[list[tuple[str, int]], SetCounts]:
    """Judge the candidate sets of variants.

    Args:
        population: the users' actions; each user has one at least.
        user_ids: (U,) ascending, the users in the order of their numbers.
        variants: by name.
        keys_of_seeds: for each seed what a sample belongs to; a variant that does not sample has the first seed alone.
        task: what is asked.
        search: of the corpus.
        on_progress: called with the users done and the users in all.
        keep: called with a variant's name, the seed, the user's number and the corpus rows of each set.

    Returns:
        The sets as (name of the variant, seed), and their counts in that order.
    """
    sets, choices, selected = [], [], []
    for name, variant in variants.items():
        seeds = list(keys_of_seeds) if variant.selection == "sampled" else list(keys_of_seeds)[:1]
        for seed in seeds:
            sets.append((name, seed))
            choices.append(variant)
            selected.append(population.select(variant, keys_of_seeds[seed]))
    lists = _Lists.of(choices, selected, user_ids, population.vectors, task.budget)
    counts = SetCounts.empty(len(sets), task.users)
    bounds = np.searchsorted(lists.users, np.arange(task.users + 1))
    of_pins = _search_pins(lists, task, search)
    for first, last in batches(bounds, _LISTS_AT_ONCE):
        found, judged = lists.search(first, last, bounds, of_pins, task, search), Judge(task, first, last)
        for user in range(first, last):
            unseen = judged.unseen(user, found[user - first])
            for number, variant in enumerate(choices):
                own = slice(*lists.of_set[number].bounds[user : user + 2])
                rows = candidate_rows(
                    unseen[lists.of_set[number].lists[own] - bounds[user]],
                    lists.of_set[number].shares[own],
                    variant.refill,
                    judged.scratch,
                )
                judged.count(user, rows, counts, number)
                if keep:
                    keep(*sets[number], user, rows)
        on_progress(last, task.users)
    return sets, counts


def judge_sets(task: RetrievalTask, sets: Sequence[Pairs]) -> SetCounts:
    """Judge candidate sets that are given: one a user in each of ``sets``."""
    counts = SetCounts.empty(len(sets), task.users)
    bounds = [np.searchsorted(pairs.users, np.arange(task.users + 1)) for pairs in sets]
    for first, last in batches(np.arange(task.users + 1), _USERS_AT_ONCE):
        judged = Judge(task, first, last)
        for user in range(first, last):
            for number, (pairs, bound) in enumerate(zip(sets, bounds, strict=True)):
                judged.count(user, pairs.rows[bound[user] : bound[user + 1]], counts, number)
    return counts


def random_sets(task: RetrievalTask, keys: Sequence[tuple[int, ...]]) -> Pairs:
    """As many unseen corpus rows as the budget at random; ``keys`` says for each user what the draw belongs to."""
    bounds = np.searchsorted(task.seen.users, np.arange(task.users + 1))
    drawn = []
    for user, key in enumerate(keys):
        seen = task.seen.rows[bounds[user] : bounds[user + 1]]
        # NumPy takes no negative seeds, and an id may be any 64-bit integer.
        chance = np.random.default_rng([int(part) % 2**64 for part in key])
        some = chance.choice(len(task.corpus), min(len(task.corpus), task.budget + len(seen)), replace=False)
        drawn.append(some[~np.isin(some, seen)][: task.budget])
    return _pairs(drawn)


def popular_sets(task: RetrievalTask, actions: NDArray[np.int64], chance: NDArray[np.float64]) -> Pairs:
    """The unseen corpus rows that were acted on most.

    Args:
        task: whose corpus has m rows.
        actions: (m,) how often each was acted on.
        chance: (m,) random numbers, by which equals are ordered.
    """
    order = np.lexsort((chance, -actions))
    bounds = np.searchsorted(task.seen.users, np.arange(task.users + 1))
    found = []
    for first, last in pairwise(bounds):
        some = order[: task.budget + last - first]
        found.append(some[~np.isin(some, task.seen.rows[first:last])][: task.budget])
    return _pairs(found)


def _pairs(rows: list[NDArray[np.int64]]) -> Pairs:
    users = np.repeat(np.arange(len(rows)), [len(own) for own in rows])
    return Pairs.of(users, np.concatenate([np.empty(0, np.int64), *rows]))


def candidate_rows(
    lists: NDArray[np.int64], shares: NDArray[np.int64], refill: bool, scratch: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The candidate set of a user from the lists of its embeddings, as `candidates.candidate_sets` defines it.

    Args:
        lists: (e, B) unseen corpus rows, the nearest first; B is the budget, or all that are unseen.
        shares: (e,) how many each brings, at least 1.
        refill: whether what overlaps is replaced.
        scratch: (m,) int64 of any content, which changes.

    Returns:
        Different rows.
    """
    if len(lists) == 1:
        return lists[0, : shares[0]]
    equal = (shares == shares[0]).all()
    size, reach = int(shares.sum()), 1.25 if refill else 1.0
    while True:
        depths = np.minimum(np.ceil(reach * shares).astype(np.int64), lists.shape[1])
        if equal:
            # At equal depth the smaller row comes first; numbers made of both sort faster than anything else.
            in_order = np.sort((np.arange(depths[0]) * len(scratch) + lists[:, : depths[0]]).ravel()) % len(scratch)
        else:
            owners, places = np.repeat(np.arange(len(lists)), depths), ranges(np.zeros_like(depths), depths)
            rows = lists[owners, places]
            in_order = rows[np.lexsort((rows, places / shares[owners]))]
        # The first of each row: written from the end, what is written last stays.
        numbers = np.arange(len(in_order))
        scratch[in_order[::-1]] = numbers[::-1]
        different = in_order[scratch[in_order] == numbers]
        if not refill or len(different) >= size or depths.min() == lists.shape[1]:
            return different[:size]
        reach *= 1.5


class Judge:
    """Holds sets against the targets of some users, first to one before last."""

    def __init__(self, task: RetrievalTask, first: int, last: int) -> None:
        """Compare the users' targets with the whole corpus, once for all sets."""
        self._task, self._first = task, first
        self._targets = np.searchsorted(task.targets.users, np.arange(first, last + 1))
        own = slice(self._targets[0], self._targets[-1])
        self._target_rows = task.targets.corpus_rows[own]
        self._is_relevant = task.targets.vectors[own] @ task.corpus.T >= task.relevance_cosine
        self._targets = self._targets - self._targets[0]
        self._seen = np.searchsorted(task.seen.users, np.arange(first, last + 1))
        self._in_set = np.zeros(len(task.corpus), dtype=bool)
        self.scratch = np.zeros(len(task.corpus), dtype=np.int64)

    def unseen(self, user: int, found: NDArray[np.int64]) -> NDArray[np.int64]:
        """Of (E, k) rows found for a user the first unseen ones, (E, min(budget, unseen pins))."""
        own = self._task.seen.rows[self._seen[user - self._first] : self._seen[user - self._first + 1]]
        self._in_set[own] = True
        is_unseen = ~self._in_set[found]
        self._in_set[own] = False
        size = min(self._task.budget, len(self._task.corpus) - len(own))
        kept = is_unseen & (np.cumsum(is_unseen, axis=1, dtype=np.int32) <= size)
        return found[kept].reshape(len(found), size)

    def count(self, user: int, rows: NDArray[np.int64], counts: SetCounts, number: int) -> None:
        """Enter the counts of a user's set, given as corpus rows."""
        own = slice(*self._targets[user - self._first : user - self._first + 2])
        wanted = self._target_rows[own]
        self._in_set[rows] = True
        counts.recalled[number, user] = np.count_nonzero(self._in_set[wanted[wanted >= 0]])
        self._in_set[rows] = False
        counts.relevant[number, user] = np.count_nonzero(self._is_relevant[own][:, rows].any(axis=1))
        counts.set_size[number, user] = len(rows)


@dataclass(frozen=True)
class _Choice:
    """Of one set: which lists (K,), with which shares (K,), and where each user's begin (U + 1,)."""

    lists: NDArray[np.int64]
    shares: NDArray[np.int64]
    bounds: NDArray[np.int64]


@dataclass(frozen=True)
class _Lists:
    """The different (user, embedding) pairs of all sets: what is searched for.

    ``users`` (L,) ascending numbers; ``pin_rows`` (L,) of embeddings that are pins, -1 of others; ``means`` (L',
    d), the others, which ``mean_rows`` (L,) point at; ``of_set`` a choice a set.
    """

    users: NDArray[np.int64]
    pin_rows: NDArray[np.int64]
    mean_rows: NDArray[np.int64]
    means: NDArray[np.float32]
    pins: NDArray[np.float32]
    of_set: list[_Choice]

    @classmethod
    def of(
        cls,
        variants: list[Variant],
        selected: list[Embeddings],
        user_ids: NDArray[np.int64],
        pins: NDArray[np.float32],
        budget: int,
    ) -> "_Lists":
        families = {family: number for number, family in enumerate(dict.fromkeys(map(_family, variants)), start=1)}
        columns, shared, vectors = [], [], []
        for variant, chosen in zip(variants, selected, strict=True):
            frame = pl.DataFrame({"user_id": chosen.user_ids, "importance": chosen.importances}).with_row_index("row")
            # More embeddings than there is budget cannot bring a pin each.
            within = frame.filter(pl.int_range(pl.len()).over("user_id") < budget)
            with_shares = shares(within, budget, variant.shares == "importance", variant.refill)
            kept = with_shares["row"].to_numpy()
            family = 0 if variant.representation in MEDOIDS else families[_family(variant)]
            users = np.searchsorted(user_ids, chosen.user_ids[kept])
            columns.append(np.stack([users, np.full(len(kept), family), chosen.medoid_rows[kept]], axis=1))
            shared.append(with_shares["share"].to_numpy().astype(np.int64))
            vectors.append(chosen.vectors[kept] if family else None)
        everything = np.concatenate(columns)
        keys, inverse = np.unique(everything, axis=0, return_inverse=True)
        is_mean = keys[:, 1] > 0
        mean_rows = np.where(is_mean, np.cumsum(is_mean) - 1, -1)
        means = np.empty((int(is_mean.sum()), pins.shape[1]), dtype=np.float32)
        ends = np.cumsum([len(own) for own in columns])
        of_set = []
        for own, share, vector, end in zip(columns, shared, vectors, ends, strict=True):
            lists = inverse[end - len(own) : end]
            if vector is not None:
                means[mean_rows[lists]] = vector
            # A user's embeddings stand in the order of selection; users are ascending.
            bounds = np.searchsorted(own[:, 0], np.arange(len(user_ids) + 1))
            of_set.append(_Choice(lists, share, bounds))
        return cls(keys[:, 0], np.where(is_mean, -1, keys[:, 2]), mean_rows, means, pins, of_set)

    def search(
        self,
        first: int,
        last: int,
        bounds: NDArray[np.int64],
        of_pins: "_PinNeighbours",
        task: RetrievalTask,
        search: Search,
    ) -> list[NDArray[np.int64]]:
        """Of each user the neighbours of its lists, (E, k) each, deep enough for the budget and what it has seen."""
        seen = np.diff(np.searchsorted(task.seen.users, np.arange(first, last + 1)))
        own = slice(bounds[first], bounds[last])
        means = self.means[self.mean_rows[own][self.mean_rows[own] >= 0]]
        found_means = search(means, of_pins.depth)
        done, found = 0, []
        for user in range(first, last):
            lists = slice(bounds[user], bounds[user + 1])
            pin_rows = self.pin_rows[lists]
            is_mean = pin_rows == -1
            if task.budget + seen[user - first] > of_pins.depth:
                queries = self.pins[pin_rows]
                queries[is_mean] = means[done : done + np.count_nonzero(is_mean)]
                found.append(search(queries, task.budget + int(seen[user - first])))
            else:
                near = np.empty((len(pin_rows), found_means.shape[1]), dtype=np.int64)
                near[~is_mean] = of_pins.rows[np.searchsorted(of_pins.pin_rows, pin_rows[~is_mean])]
                near[is_mean] = found_means[done : done + np.count_nonzero(is_mean)]
                found.append(near)
            done += np.count_nonzero(is_mean)
        return found


@dataclass(frozen=True)
class _PinNeighbours:
    """Corpus rows ``rows`` (p, min(depth, m)) int32 nearest to the pins ``pin_rows`` (p,), which users share."""

    pin_rows: NDArray[np.int64]
    rows: NDArray[np.int32]
    depth: int


def _search_pins(lists: _Lists, task: RetrievalTask, search: Search) -> _PinNeighbours:
    seen = np.bincount(task.seen.users, minlength=task.users)
    # For the few who have seen more, all is searched again.
    depth = task.budget + int(np.quantile(seen, _SHALLOW_USERS)) if task.users else task.budget
    pin_rows = np.unique(lists.pin_rows[lists.pin_rows >= 0])
    rows = np.empty((len(pin_rows), min(depth, len(task.corpus))), dtype=np.int32)
    for start in range(0, len(pin_rows), _LISTS_AT_ONCE):
        some = slice(start, start + _LISTS_AT_ONCE)
        rows[some] = search(lists.pins[pin_rows[some]], depth)
    return _PinNeighbours(pin_rows, rows, depth)


def _family(variant: Variant) -> tuple[str, float | None, str, float]:
    """What two variants have in common if the same cluster has the same embedding in both."""
    decay_per_day = variant.decay_per_day if variant.representation == "decayed_centroid" else 0.0
    return variant.clustering, variant.alpha, variant.representation, decay_per_day
