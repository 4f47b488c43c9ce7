"""The candidate retrieval task (paper, section 5.3.1, Table 4): what candidate sets foresee of users' next actions.

Each embedding of a user is searched for once, about as deep as any set needs it; every variant, seed, e and way to
share out the budget is then a choice among these lists, and all choices of a user are made together. Users are judged
in batches of bounded memory.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pinnersage_assets.model.candidates import shares
from pinnersage_assets.model.population import LARGEST_CODE, batches, ranges
from pinnersage_assets.model.selected_vectors import Vectors
from pinnersage_assets.model.user_sets import Pairs
from pinnersage_assets.model.variants import MEDOIDS, Embeddings, UserEmbeddings, Variant

# Lists of neighbours that are held at once, beside those of pins, which users share: the more are searched together,
# the more alike are those that come after each other.
_LISTS_AT_ONCE = 32_768
# Users that are judged at once, at least.
_USERS_AT_ONCE = 256
# Candidates whose vectors are held against a user's targets at once.
_CANDIDATES_AT_ONCE = 8_192
# Queries that are searched together: so many, of depths so much apart; unless they are few, for which the work of a
# deeper search is less than that of one more.
_QUERIES_AT_ONCE = 16_384
_LIKE_DEPTHS = 1.2
_FEW_QUERIES = 256
# Lists are searched this deep at least, or this often the largest share that is wanted of them, for overlaps and what
# is seen. The few sets that this is not enough for get lists so many times as deep, and what is left of them lists as
# deep as any set could want them.
_LEAST_DEPTH = 64
_DEPTH_OF_SHARE = 1.85
_DEEPER = 2
# How far sets are looked at, relative to the shares, and how much further each time that overlaps leave room.
_REACH = 1.25
_FURTHER = 2

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
    corpus: Vectors
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

    def together(self, offsets: NDArray[np.int64]) -> "SetCounts":
        """Count as one user those from each offset up to the next: targets are added up, sizes averaged and rounded."""
        relevant, recalled, set_size = (
            np.add.reduceat(counts, offsets[:-1], axis=1, dtype=np.int32)
            for counts in (self.relevant, self.recalled, self.set_size)
        )
        return SetCounts(relevant, recalled, np.rint(set_size / np.diff(offsets)).astype(np.int32))


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
        keep: called with a variant's name, the seed, the user's number and the corpus rows of each set; users
            ascend.

    Returns:
        The sets as (name of the variant, seed), and their counts in that order.
    """
    sets = [
        (name, seed)
        for name, variant in variants.items()
        for seed in list(keys_of_seeds)[: None if variant.selection == "sampled" else 1]
    ]
    chosen = [variants[name] for name, _ in sets]
    selected = (population.select(variants[name], keys_of_seeds[seed]) for name, seed in sets)
    vectors = population.vectors
    return sets, judge_embeddings(sets, chosen, selected, user_ids, vectors, task, search, on_progress, keep)


def judge_embeddings(
    sets: Sequence[tuple[str, int]],
    variants: Sequence[Variant],
    selected: Iterable[Embeddings],
    user_ids: NDArray[np.int64],
    vectors: NDArray[np.float32],
    task: RetrievalTask,
    search: Search,
    on_progress: Callable[[int, int], object],
    keep: Callable[[str, int, int, NDArray[np.int64]], object] | None = None,
) -> SetCounts:
    """Judge the candidate sets of embeddings that are selected.

    Args:
        sets: what ``keep`` is told of each set: a name and a seed.
        variants: of each set how its budget is shared out, and what its embeddings stand for.
        selected: of each set its embeddings, made one after the other, since those of all sets may not fit.
        user_ids: (U,) ascending, the users in the order of their numbers.
        vectors: (pins, d) that medoid rows are rows of.
        task: as of `judge_variants`, like what follows.
        search: of the corpus.
        on_progress: called with the users done and the users in all.
        keep: as of `judge_variants`.

    Returns:
        The counts of the sets, in their order.
    """
    lists, members = _choose(variants, selected, user_ids, vectors, task.budget)
    refill = np.array([variant.refill for variant in variants])
    counts = SetCounts.empty(len(sets), task.users)
    depths_of_lists = _depths(lists, members, task)
    of_pins = _search_pins(lists, depths_of_lists[0], search)
    bounds_of_lists, bounds = (np.searchsorted(some.users, np.arange(task.users + 1)) for some in (lists, members))
    # Users of few lists have targets as well.
    weights = bounds_of_lists + np.arange(task.users + 1) * (_LISTS_AT_ONCE // _USERS_AT_ONCE)
    for first, last in batches(weights, _LISTS_AT_ONCE):
        judged, kept = Judge(task, first, last), {}
        pending = np.arange(bounds[first], bounds[last])
        for step, depths in enumerate(depths_of_lists):
            wanted = np.unique(members.lists[pending])
            searched = of_pins if step == 0 else None
            found = _search_lists(lists, wanted, depths, searched, len(task.corpus), search)
            unfinished = []
            for own in np.split(pending, np.flatnonzero(np.diff(members.users[pending])) + 1):
                user = int(members.users[own[0]])
                of_user = slice(*np.searchsorted(lists.users[wanted], [user, user + 1]))
                numbers, of_set = _numbered(members.sets[own])
                finished = np.zeros(len(numbers), dtype=bool)
                for which, rows, sizes in candidate_rows(
                    judged.unseen(user, found.part(of_user)),
                    of_set,
                    np.searchsorted(wanted[of_user], members.lists[own]),
                    members.shares[own],
                    refill[numbers],
                    len(task.corpus),
                ):
                    finished[which] = True
                    judged.count(user, rows, sizes, counts, numbers[which])
                    if keep:
                        parts = np.split(rows, np.cumsum(sizes)[:-1])
                        kept |= {(user, number): part for number, part in zip(numbers[which], parts, strict=True)}
                unfinished.append(own[~finished[of_set]])
            pending = np.concatenate(unfinished)
            if not len(pending):
                break
        if keep:
            for user, number in sorted(kept):
                keep(*sets[number], user, kept[user, number])
        on_progress(last, task.users)
    return counts


def judge_sets(task: RetrievalTask, sets: Sequence[Pairs]) -> SetCounts:
    """Judge candidate sets that are given: one a user in each of ``sets``."""
    counts = SetCounts.empty(len(sets), task.users)
    bounds = np.stack([np.searchsorted(pairs.users, np.arange(task.users + 1)) for pairs in sets], axis=1)
    for first, last in batches(np.arange(task.users + 1), _USERS_AT_ONCE):
        judged = Judge(task, first, last)
        for user in range(first, last):
            rows = [pairs.rows[start:end] for pairs, start, end in zip(sets, *bounds[user : user + 2], strict=True)]
            sizes = bounds[user + 1] - bounds[user]
            judged.count(user, np.concatenate(rows), sizes, counts, np.arange(len(sets)))
    return counts


def random_sets(task: RetrievalTask, keys: Sequence[tuple[int, ...]]) -> Pairs:
    """As many unseen corpus rows as the budget at random; ``keys`` says for each user what the draw belongs to."""
    bounds = np.searchsorted(task.seen.users, np.arange(task.users + 1))
    is_seen = np.zeros(len(task.corpus), dtype=bool)
    drawn = []
    for user, key in enumerate(keys):
        seen = task.seen.rows[bounds[user] : bounds[user + 1]]
        # NumPy takes no negative seeds, and an id may be any 64-bit integer.
        chance = np.random.default_rng([int(part) % 2**64 for part in key])
        some = chance.choice(len(task.corpus), min(len(task.corpus), task.budget + len(seen)), replace=False)
        drawn.append(_first_unseen(some, seen, task.budget, is_seen))
    return _pairs(drawn)


def popular_sets(task: RetrievalTask, popular: NDArray[np.int64]) -> Pairs:
    """The unseen corpus rows that were acted on most.

    Args:
        task: whose corpus has m rows.
        popular: (n,) the most popular corpus rows, the most popular first: as many as the budget beyond what any user
            has seen, or all.
    """
    bounds = np.searchsorted(task.seen.users, np.arange(task.users + 1))
    is_seen = np.zeros(len(task.corpus), dtype=bool)
    found = []
    for first, last in pairwise(bounds):
        seen = task.seen.rows[first:last]
        found.append(_first_unseen(popular[: task.budget + len(seen)], seen, task.budget, is_seen))
    return _pairs(found)


def _first_unseen(
    rows: NDArray[np.int64], seen: NDArray[np.int64], size: int, is_seen: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """The first rows that are not seen; ``is_seen`` (m,) is False before and after."""
    is_seen[seen] = True
    unseen = rows[~is_seen[rows]][:size]
    is_seen[seen] = False
    return unseen


def _pairs(rows: list[NDArray[np.int64]]) -> Pairs:
    users = np.repeat(np.arange(len(rows)), [len(own) for own in rows])
    return Pairs.of(users, np.concatenate([np.empty(0, np.int64), *rows]))


@dataclass(frozen=True)
class Neighbours:
    """Lists of corpus rows, the nearest first, one after another.

    ``rows`` (N,); ``starts`` (lists + 1,) where each list begins, and the end of the last; ``whole`` (lists,) whether
    there are no more.
    """

    rows: NDArray[np.integer]
    starts: NDArray[np.int64]
    whole: NDArray[np.bool_]

    def part(self, lists: slice) -> "Neighbours":
        """Some consecutive lists."""
        starts = self.starts[lists.start : lists.stop + 1]
        return Neighbours(self.rows[starts[0] : starts[-1]], starts - starts[0], self.whole[lists])


def candidate_rows(
    unseen: Neighbours,
    sets: NDArray[np.int64],
    lists: NDArray[np.int64],
    shares: NDArray[np.int64],
    refill: NDArray[np.bool_],
    corpus_size: int,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """The candidate sets of a user from the lists of its embeddings, as `candidates.candidate_sets` defines them.

    Args:
        unseen: corpus rows, of each embedding those nearest to it that the user has not seen.
        sets: (n,) the set that each of the lists and shares belongs to: 0, 1, ... without gaps, ascending.
        lists: (n,) which of the lists it is.
        shares: (n,) how many pins it brings, at least 1.
        refill: (S,) whether what overlaps is replaced.
        corpus_size: m; rows are below it.

    Yields:
        Some of the sets (s,), their sizes (s,) last, and between them their rows, those of one set after those of the
        other. Each set comes once, or never if the lists are not deep enough to say which rows it has.

    Raises:
        ValueError: shares, lists and the corpus are so large that places over shares cannot be compared exactly.
    """
    # A place over a share, as a whole number: fractions of denominators up to the largest share are equal, or differ by
    # one unit at least. With the set and the row it makes one number to sort by.
    unit = int(shares.max()) ** 2
    begins, lengths = np.flatnonzero(np.diff(sets, prepend=-1)), np.diff(unseen.starts)
    at_once = LARGEST_CODE // (max(corpus_size, int(shares.max())) * (unit * (int(lengths.max()) + 1) + 1))
    if at_once < 1:
        raise ValueError(
            f"a share of {shares.max():,} pins from lists of {lengths.max():,} is too large to be compared exactly in "
            f"a corpus of {corpus_size:,}: lower retrieval.budget or evaluation.largest_share"
        )
    if at_once < len(refill):
        for start in range(0, len(refill), at_once):
            own = (sets >= start) & (sets < start + at_once)
            some = sets[own] - start, lists[own], shares[own], refill[start : start + at_once]
            for which, rows, sizes in candidate_rows(unseen, *some, corpus_size):
                yield which + start, rows, sizes
        return
    wanted = np.add.reduceat(shares, begins)
    # With a single list nothing overlaps.
    goes_on = refill & (np.diff(begins, append=len(sets)) > 1)
    # Before this, all lists of the set are known; beyond the longest list there is nothing.
    end = unit * (int(lengths.max()) + 1)
    known = np.minimum.reduceat(np.where(unseen.whole[lists], end, lengths[lists] * unit // shares), begins)
    pending, reach = np.flatnonzero(goes_on | (known >= unit)), _REACH
    while len(pending):
        number = np.full(len(refill), -1)
        number[pending] = np.arange(len(pending))
        own = np.flatnonzero(number[sets] >= 0)
        of_set, share = number[sets[own]], shares[own]
        limits = np.minimum(np.where(goes_on[pending], int(reach * unit), unit), known[pending])
        depths = np.minimum(lengths[lists[own]], -(-limits[of_set] * share // unit))
        places = ranges(np.zeros_like(depths), depths)
        rows = unseen.rows[places + np.repeat(unseen.starts[lists[own]], depths)]
        # Every row of a set once, where it is nearest: numbers made of both sort faster than anything else.
        units = int(limits.max()) + 1
        codes = (np.repeat(of_set * corpus_size, depths) + rows) * units + places * unit // np.repeat(share, depths)
        codes.sort()
        rows_of_sets = codes // units
        first = np.flatnonzero(np.diff(rows_of_sets, prepend=-1))
        rows_of_sets, units_of_rows = rows_of_sets[first], codes[first] - rows_of_sets[first] * units
        of_row = rows_of_sets // corpus_size
        # In order; as near, the smaller row comes first.
        codes = rows_of_sets + (of_row * (units - 1) + units_of_rows) * corpus_size
        codes.sort()
        found = np.bincount(of_row, minlength=len(pending))
        is_full = (found >= wanted[pending]) | ~goes_on[pending] | (limits == end)
        sizes = np.minimum(found, wanted[pending])[is_full]
        if len(sizes):
            yield pending[is_full], codes[ranges((np.cumsum(found) - found)[is_full], sizes)] % corpus_size, sizes
        pending, reach = pending[~is_full & (limits < known[pending])], reach * _FURTHER


def ranked_candidates(
    rows: NDArray[np.int64],
    unseen: Neighbours,
    cosines: NDArray[np.float32],
    shares: NDArray[np.int64],
    medoid_ids: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """A set in the order of its scores, with the medoid that each candidate comes from, as of `candidate_sets`.

    Args:
        rows: (r,) the corpus rows of one set, as `candidate_rows` gives them: the deepest last.
        unseen: what that was made of, all lists of it.
        cosines: (N,) how near each of ``unseen.rows`` is.
        shares: (e,) how many pins each list brings.
        medoid_ids: (e,) the medoids.

    Returns:
        (r,) each: rows, scores, highest first and equal ones by row, and which of the lists.
    """
    lengths = np.diff(unseen.starts)
    lists = np.repeat(np.arange(len(lengths)), lengths)
    places, share = np.arange(len(lists)) - unseen.starts[lists], shares[lists]
    depths = places * int(shares.max()) ** 2 // share
    deepest = depths[unseen.rows == rows[-1]].min() if len(rows) else -1
    brought = np.flatnonzero(((places < share) | (depths <= deepest)) & np.isin(unseen.rows, rows))
    order = brought[np.lexsort((medoid_ids[lists[brought]], unseen.rows[brought], -cosines[brought]))]
    _, first = np.unique(unseen.rows[order], return_index=True)
    chosen = order[np.sort(first)]
    return unseen.rows[chosen].astype(np.int64), cosines[chosen], lists[chosen]


class Judge:
    """Holds sets against the targets of some users, first to one before last."""

    def __init__(self, task: RetrievalTask, first: int, last: int) -> None:
        """Look up where the users' targets are, and what they have seen."""
        self._task, self._first = task, first
        self._targets = np.searchsorted(task.targets.users, np.arange(first, last + 1))
        self._seen = np.searchsorted(task.seen.users, np.arange(first, last + 1))
        # Of corpus rows, for one user at a time: all of it is false, and nobody looks at the places, in between.
        self._is_seen, self._is_candidate = np.zeros((2, len(task.corpus)), dtype=bool)
        self._place = np.empty(len(task.corpus), dtype=np.int32)

    def unseen(self, user: int, found: Neighbours) -> Neighbours:
        """Of the neighbours found for a user those that it has not seen."""
        own = self._task.seen.rows[self._seen[user - self._first] : self._seen[user - self._first + 1]]
        self._is_seen[own] = True
        is_unseen = ~self._is_seen[found.rows]
        self._is_seen[own] = False
        starts = np.append(0, np.cumsum(is_unseen))[found.starts]
        return Neighbours(found.rows[is_unseen], starts, found.whole)

    def count(
        self,
        user: int,
        rows: NDArray[np.int64],
        sizes: NDArray[np.int64],
        counts: SetCounts,
        numbers: NDArray[np.int64],
    ) -> None:
        """Enter the counts of a user's sets: their corpus rows, one set after another, the sizes, and their numbers."""
        own = slice(*self._targets[user - self._first : user - self._first + 2])
        counts.set_size[numbers, user] = sizes
        # Sums over nothing are what `reduceat` does not have.
        filled = sizes > 0
        numbers, starts = numbers[filled], (np.cumsum(sizes) - sizes)[filled]
        if len(numbers):
            for hits, into in (
                (self._are_relevant(own, rows), counts.relevant),
                (self._task.targets.corpus_rows[own, None] == rows, counts.recalled),
            ):
                into[numbers, user] = np.logical_or.reduceat(hits, starts, axis=1).sum(axis=0)

    def _are_relevant(self, targets: slice, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which candidates are near which targets, (t, r): those that many sets have are compared once."""
        self._is_candidate[rows] = True
        distinct = np.flatnonzero(self._is_candidate)
        self._is_candidate[distinct] = False
        self._place[distinct] = np.arange(len(distinct))
        task, are_near = self._task, []
        for start in range(0, len(distinct), _CANDIDATES_AT_ONCE):
            candidates = task.corpus[distinct[start : start + _CANDIDATES_AT_ONCE]]
            are_near.append(task.targets.vectors[targets] @ candidates.T >= task.relevance_cosine)
        return np.concatenate(are_near, axis=1)[:, self._place[rows]]


@dataclass(frozen=True)
class _Lists:
    """The different (user, embedding) pairs of all sets: what is searched for.

    ``users`` (L,) ascending numbers; ``pin_rows`` (L,) of embeddings that are ``pins``, -1 of others; ``mean_rows``
    (L,) the others as rows of ``means``, -1 of pins.
    """

    users: NDArray[np.int64]
    pin_rows: NDArray[np.int64]
    mean_rows: NDArray[np.int64]
    pins: NDArray[np.float32]
    means: NDArray[np.float32]

    def vectors(self, lists: NDArray[np.int64]) -> NDArray[np.float32]:
        """What to search for."""
        queries = self.pins[self.pin_rows[lists]]
        is_mean = self.mean_rows[lists] >= 0
        queries[is_mean] = self.means[self.mean_rows[lists[is_mean]]]
        return queries


@dataclass(frozen=True)
class _Members:
    """Which lists sets are made of, (n,) each: ``users`` and, within a user, ``sets`` ascend."""

    users: NDArray[np.int64]
    sets: NDArray[np.int64]
    lists: NDArray[np.int64]
    shares: NDArray[np.int64]


def _choose(
    variants: Sequence[Variant],
    selected: Iterable[Embeddings],
    user_ids: NDArray[np.int64],
    pins: NDArray[np.float32],
    budget: int,
) -> tuple[_Lists, _Members]:
    """What to search for, and what each set makes of it."""
    # A mean is known by what makes it and by the medoid of its cluster; 0 are the pins themselves.
    families = {family: number for number, family in enumerate(dict.fromkeys(map(_family, variants)), start=1)}
    of_members, mean_keys, means = [], [np.empty(0, np.int64)], [pins[:0]]
    for number, (variant, chosen) in enumerate(zip(variants, selected, strict=True)):
        frame = pl.DataFrame({"user_id": chosen.user_ids, "importance": chosen.importances}).with_row_index("row")
        # More embeddings than there is budget cannot bring a pin each.
        within = frame.filter(pl.int_range(pl.len()).over("user_id") < budget)
        with_shares = shares(within, budget, variant.shares == "importance", variant.refill)
        kept = with_shares["row"].to_numpy()
        users = np.searchsorted(user_ids, chosen.user_ids[kept])
        family = 0
        if variant.representation not in MEDOIDS:
            # The mean of a single pin is often that pin to the last bit.
            is_mean = (chosen.vectors[kept] != pins[chosen.medoid_rows[kept]]).any(axis=1)
            family = np.where(is_mean, families[_family(variant)], 0)
        keys = (users * (len(families) + 1) + family) * len(pins) + chosen.medoid_rows[kept]
        of_members.append([users, np.full(len(kept), number), keys, with_shares["share"].to_numpy().astype(np.int64)])
        if variant.representation not in MEDOIDS:
            # Vectors of one set at a time: those of all would not fit.
            is_new = is_mean & ~np.isin(keys, np.concatenate(mean_keys))
            mean_keys.append(keys[is_new])
            means.append(chosen.vectors[kept[is_new]])
    users, sets, keys, share = np.concatenate([np.empty((4, 0), np.int64), *of_members], axis=1)
    keys, lists = np.unique(keys, return_inverse=True)
    owners_and_families, pin_rows = np.divmod(keys, len(pins))
    owners, families_of_lists = np.divmod(owners_and_families, len(families) + 1)
    mean_rows = np.full(len(keys), -1)
    mean_rows[families_of_lists > 0] = np.argsort(np.concatenate(mean_keys))
    found = _Lists(owners, np.where(mean_rows < 0, pin_rows, -1), mean_rows, pins, np.concatenate(means))
    order = np.argsort(users, kind="stable")
    return found, _Members(users[order], sets[order], lists[order], share[order])


def _depths(lists: _Lists, members: _Members, task: RetrievalTask) -> list[NDArray[np.int64]]:
    """How deep each list is searched: at first, where that is not enough, and as deep as any set could want it."""
    seen = np.bincount(task.seen.users, minlength=task.users)[lists.users]
    largest = np.zeros(len(lists.users), dtype=np.int64)
    np.maximum.at(largest, members.lists, members.shares)
    most = task.budget + seen
    first = np.maximum(_LEAST_DEPTH, np.ceil(_DEPTH_OF_SHARE * largest).astype(np.int64))
    return [
        np.minimum(depth, len(task.corpus))
        for depth in (np.minimum(first, most), np.minimum(_DEEPER * first, most), most)
    ]


@dataclass(frozen=True)
class _PinNeighbours:
    """Corpus rows nearest to the pins ``pin_rows`` (p,) ascending, which users share: (N,) int32 from ``starts`` on."""

    pin_rows: NDArray[np.int64]
    rows: NDArray[np.int32]
    starts: NDArray[np.int64]


def _search_pins(lists: _Lists, depths: NDArray[np.int64], search: Search) -> _PinNeighbours:
    is_pin = lists.pin_rows >= 0
    pin_rows, which = np.unique(lists.pin_rows[is_pin], return_inverse=True)
    deepest = np.zeros(len(pin_rows), dtype=np.int64)
    np.maximum.at(deepest, which, depths[is_pin])
    rows = _search(lambda some: lists.pins[pin_rows[some]], deepest, search)
    return _PinNeighbours(pin_rows, rows, np.cumsum(deepest) - deepest)


def _search_lists(
    lists: _Lists,
    wanted: NDArray[np.int64],
    depths: NDArray[np.int64],
    of_pins: _PinNeighbours | None,
    corpus_size: int,
    search: Search,
) -> Neighbours:
    """The neighbours of some lists; those of pins are looked up, if they are given."""
    depth = depths[wanted]
    starts = np.append(0, np.cumsum(depth))
    rows = np.empty(starts[-1], dtype=np.int32)
    known = (lists.pin_rows[wanted] >= 0) & (of_pins is not None)
    if of_pins:
        places = of_pins.starts[np.searchsorted(of_pins.pin_rows, lists.pin_rows[wanted[known]])]
        rows[ranges(starts[:-1][known], depth[known])] = of_pins.rows[ranges(places, depth[known])]
    others = wanted[~known]
    found = _search(lambda some: lists.vectors(others[some]), depths[others], search)
    rows[ranges(starts[:-1][~known], depth[~known])] = found
    return Neighbours(rows, starts, depth == corpus_size)


def _search(
    queries: Callable[[NDArray[np.int64]], NDArray[np.float32]], depths: NDArray[np.int64], search: Search
) -> NDArray[np.int32]:
    """The first ``depths`` corpus rows of each query, one query after another."""
    starts = np.cumsum(depths) - depths
    rows = np.empty(depths.sum(), dtype=np.int32)
    order, start = np.argsort(depths, kind="stable"), 0
    ascending = depths[order]
    while start < len(order):
        alike = np.searchsorted(ascending, _LIKE_DEPTHS * ascending[start], side="right")
        end = min(max(int(alike), start + _FEW_QUERIES), start + _QUERIES_AT_ONCE)
        some = order[start:end]
        found = search(queries(some), int(depths[some[-1]]))
        rows[ranges(starts[some], depths[some])] = found[np.arange(found.shape[1]) < depths[some, None]]
        start = end
    return rows


def _numbered(ascending: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The different numbers, and for each element which of them it is."""
    is_first = np.diff(ascending, prepend=-1) != 0
    return ascending[is_first], np.cumsum(is_first) - 1


def _family(variant: Variant) -> tuple[str, float | None, str, float]:
    """What two variants have in common if the same cluster has the same embedding in both."""
    decay_per_day = variant.decay_per_day if variant.representation == "decayed_centroid" else 0.0
    return variant.clustering, variant.alpha, variant.representation, decay_per_day
