"""An answer: the stored clusters of a user, updated by what it did since, and the pins nearest to a few of them.

Walks over pins and boards (`graph_walks`) are a second source, by themselves or beside the clusters.

What belongs here: everything between the store and the answer, for one user at one moment. What does not: where a
day's files are (`served_day`), and the protocol by which people ask (`service`). While a user does nothing, the answer
is what ``retrieval.recommendations`` of the day has for it.
"""

import datetime
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pinnersage_assets.ann.restricted import CorpusIndex, search_among
from pinnersage_assets.model.blending import SOURCES, blended, quotas
from pinnersage_assets.model.candidates import share_out
from pinnersage_assets.model.online import StoredClusters, UpdatedClusters, update_clusters
from pinnersage_assets.model.pinnersage import draw_medoids
from pinnersage_assets.model.randomness import keyed_bits
from pinnersage_assets.model.retrieval_task import Neighbours, candidate_rows, ranked_candidates
from pinnersage_assets.serving.graph_walks import GraphWalks, NoGraphError, Visited
from pinnersage_assets.serving.pin_files import PinFiles
from pinnersage_assets.serving.records import StoredUser
from pinnersage_assets.serving.store import RecentActions, Store
from pinnersage_assets.settings import Settings

# Of what a user did since the batch, how much is looked at: of so much, what came before was long ago.
_MOST_RECENT = 1_000
# Lists of neighbours that were searched for and are kept; of a few hundred pins each.
_LISTS_KEPT = 16_384
_SECONDS_A_DAY = 86_400

Source = Literal["pinnersage", "pixie", "blended"]
"""Where candidates come from: the user's clusters, walks over pins and boards, or both by their quotas."""

# Rows and cosines, the nearest first.
_List = tuple[NDArray[np.int32], NDArray[np.float32]]


class UnknownPinError(LookupError):
    """A pin that the day does not know."""


@dataclass(frozen=True)
class Interest:
    """A cluster of a user, now."""

    medoid_pin_id: int
    importance: float
    """As it is now: the sum of exp(-λ age) over the cluster's actions."""
    share: float
    """Of the importance of all of the user's clusters."""
    actions: int
    recent_pin_ids: list[int]
    """Pins of the cluster that the user acted on since the last batch."""
    is_new: bool
    """Whether it consists of these alone."""


@dataclass(frozen=True)
class Candidate:
    """A recommended pin, and why it is there."""

    pin_id: int
    score: float | None
    """Cosine to the medoid, or to the pin that was asked for; null of popular pins. Where walks bring the pin, and so
    ``medoid_pin_id`` is null, how often they visited it: not to be compared with a cosine."""
    medoid_pin_id: int | None
    """Of the medoids that bring the pin, the one that it is nearest to; null where none does."""


@dataclass(frozen=True)
class Query:
    """A medoid that was asked for its neighbours."""

    medoid_pin_id: int
    importance: float
    pins: int
    """What it brings, before overlaps."""
    is_cached: bool
    """Whether its neighbours were known from the batch, or from an earlier request."""


@dataclass(frozen=True)
class Recommendations:
    """An answer."""

    source: str
    """``clusters``, ``pixie`` or ``blended``, as was asked for; ``popular`` where that brings nothing, as for a user of
    whom nothing is known: then the candidates are what everybody likes."""
    queries: list[Query]
    candidates: list[Candidate]
    unknown_pin_ids: list[int]
    """Pins that the user acted on since the last batch and whose vector is not known yet."""
    query_pin_ids: list[int]
    """Where walks begin, of near-duplicates at the first; none where no walks were asked for."""
    reason: str | None
    """Why walks bring nothing; null where they do, or were not asked for."""


@dataclass(frozen=True)
class Related:
    """What walks from a pin come to."""

    candidates: list[Candidate]
    """The most visited first."""
    reason: str | None
    """Why there are none; null where there are some."""


class Recommender:
    """Answers from one day's files; safe to ask from several threads."""

    def __init__(
        self,
        day: datetime.date,
        version: str,
        settings: Settings,
        store: Store,
        pins: PinFiles,
        index: CorpusIndex,
        walks: GraphWalks | str,
    ) -> None:
        """Take the files of a day.

        Args:
            day: of the batch.
            version: under which the store has the users of that day.
            settings: those in force when the batch was made.
            store: of users and events.
            pins: the day's pins.
            index: over the pins of the corpus, in the order of ``pins``.
            walks: over the day's graph; or why there are none.
        """
        self.day, self.version, self.settings = day, version, settings
        self._store, self._pins, self._index, self._walks = store, pins, index, walks
        self._end_of_day = datetime.datetime.combine(day + datetime.timedelta(days=1), datetime.time(), datetime.UTC)
        self._action_weights = {
            action: settings.pixie.action_weights.get(action, 1.0) for action in settings.window.interest_actions
        }
        self._recommendable = int(pins.recommendable.sum())
        self._searched: OrderedDict[int, _List] = OrderedDict()
        self._lock = threading.Lock()

    def recommend(
        self, user_id: int, now: datetime.datetime, size: int | None = None, source: Source = "pinnersage"
    ) -> Recommendations:
        """The candidates of a user.

        Args:
            user_id: anybody.
            now: the time of the request (UTC).
            size: how many candidates; None means as many as in the batch.
            source: where they come from.

        Raises:
            MissingSnapshotError: the store does not have this day's users any more.
            StoreError: the store cannot be read.
            NoGraphError: walks alone are asked for, and there is nothing to walk on. A blend is what the user's
                clusters bring then, and gives the reason.
        """
        if source == "pixie":
            self._known_walks()
        usual = self.settings.pixie.budget if source == "pixie" else 0
        budget = size or usual or self.settings.retrieval.budget
        user, recent = self._read(user_id)
        interests, unknown = self._update(user, recent, now)
        seen = self._seen(user, recent)
        is_known, name = len(interests.medoid_pin_ids) > 0, "clusters"
        queries, candidates = [], []
        if source != "pixie" and is_known:
            queries, candidates = self._by_clusters(user_id, interests, seen, budget)
        query_pin_ids, reason = [], None
        if source != "pinnersage":
            query_pin_ids, found, reason = self._by_walks(user_id, recent, interests, seen, budget)
            name, candidates = source, found if source == "pixie" else self._blended(candidates, found, budget)
        if not candidates and (source == "pixie" or not is_known):
            name, candidates = "popular", self._popular(seen, budget)
        return Recommendations(name, queries, candidates, unknown, query_pin_ids, reason)

    def _by_clusters(
        self, user_id: int, interests: UpdatedClusters, seen: NDArray[np.int64], budget: int
    ) -> tuple[list[Query], list[Candidate]]:
        """The medoids that are asked for their neighbours, and what they bring."""
        retrieval = self.settings.retrieval
        owner = np.full(len(interests.medoid_pin_ids), user_id)
        places = draw_medoids(
            owner,
            interests.medoid_pin_ids,
            interests.importances,
            # Of more medoids than pins, none might bring one.
            min(retrieval.sampled_medoids, budget),
            (self.settings.seed, self.day.toordinal()),
        )
        drawn = np.flatnonzero(places >= 0)
        importances = interests.importances[drawn]
        by_importance = retrieval.shares == "importance"
        shares = share_out(owner[drawn], importances, budget, by_importance, retrieval.refill)
        drawn, importances, shares = drawn[shares > 0], importances[shares > 0], shares[shares > 0]
        medoid_ids = interests.medoid_pin_ids[drawn]
        rows, scores, medoids, cached = self._candidates(medoid_ids, shares, seen)
        return (
            [
                Query(*query)
                for query in zip(medoid_ids.tolist(), importances.tolist(), shares.tolist(), cached, strict=True)
            ],
            [
                Candidate(*candidate)
                for candidate in zip(
                    self._pins.ids[rows].tolist(), scores.tolist(), medoid_ids[medoids].tolist(), strict=True
                )
            ],
        )

    def _by_walks(
        self, user_id: int, recent: RecentActions, interests: UpdatedClusters, seen: NDArray[np.int64], budget: int
    ) -> tuple[list[int], list[Candidate], str | None]:
        """Where walks begin, what they bring, and why that is nothing."""
        if isinstance(self._walks, str):
            return [], [], self._walks
        pins, weights = self._query_pins(self._walks, recent, interests)
        if not len(pins):
            return [], [], f"nothing that is known of user {user_id} has an edge in the graph of {self.day}"
        key = keyed_bits(self.settings.seed, self.day.toordinal(), user_id)
        visited = self._walks.visited(pins, weights, key, seen)
        return pins.tolist(), self._visited(visited, budget), visited.reason

    def interests(self, user_id: int, now: datetime.datetime) -> list[Interest]:
        """The clusters of a user, the most important first; none of a user of whom nothing is known.

        Raises:
            MissingSnapshotError: as `recommend`.
            StoreError: as `recommend`.
        """
        user, recent = self._read(user_id)
        found, _ = self._update(user, recent, now)
        total = found.importances.sum() or 1.0
        recent_pins, labels = recent.pin_ids, found.labels
        known = self._of_interest(recent)
        return [
            Interest(
                int(found.medoid_pin_ids[cluster]),
                float(found.importances[cluster]),
                float(found.importances[cluster] / total),
                int(found.sizes[cluster]),
                list(dict.fromkeys(recent_pins[known][labels == cluster].tolist())),
                bool(cluster >= found.stored),
            )
            for cluster in np.argsort(-found.importances, kind="stable")
        ]

    def like(self, pin_id: int, size: int) -> list[Candidate]:
        """The recommendable pins nearest to a pin, without itself and what repeats it.

        Raises:
            UnknownPinError: nothing is known of the pin.
        """
        [row] = self._pins.rows_of(np.array([pin_id]))
        if row < 0:
            raise UnknownPinError(f"pin {pin_id} is not known on {self.day}")
        rows, cosines = self._search(row, size + 1)
        kept = rows != self._pins.corpus_rows[row]
        ids = self._pins.ids[rows[kept][:size]]
        return [Candidate(*found, None) for found in zip(ids.tolist(), cosines[kept][:size].tolist(), strict=True)]

    def related(self, pin_id: int, size: int) -> Related:
        """The recommendable pins that walks from a pin visit most, without itself and what repeats it.

        Raises:
            UnknownPinError: nothing is known of the pin.
            NoGraphError: there is nothing to walk on.
        """
        walks = self._known_walks()
        [row] = self._pins.rows_of(np.array([pin_id]))
        if row < 0:
            raise UnknownPinError(f"pin {pin_id} is not known on {self.day}")
        first = walks.firsts_of(np.array([pin_id]))
        if not walks.have_edges(first)[0]:
            reason = f"pin {pin_id} has no edge in the graph of {self.day}: it is on no board that pruning leaves"
            return Related([], reason)
        key = keyed_bits("related", self.settings.seed, self.day.toordinal(), first)
        visited = walks.visited(first, np.ones(1), key, np.empty(0, np.int64))
        return Related(self._visited(visited, size), visited.reason)

    def _known_walks(self) -> GraphWalks:
        if isinstance(self._walks, str):
            raise NoGraphError(self._walks)
        return self._walks

    def _query_pins(
        self, walks: GraphWalks, recent: RecentActions, interests: UpdatedClusters
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Where walks begin, and what each pin weighs; pins without edges take nobody's place.

        At the pins that the user acted on since the batch, as ``retrieval.pixie_recommendations`` of the day did at
        those of the window, which are not stored; at the user's medoids where it did nothing, or by the settings.
        """
        pixie = self.settings.pixie
        firsts = walks.firsts_of(recent.pin_ids)
        weights = np.array([self._action_weights.get(action, 0.0) for action in recent.actions], dtype=np.float64)
        taken = (weights > 0) & walks.have_edges(firsts)
        if pixie.queries == "actions" and taken.any():
            # Only ratios matter: as of the latest action they do not depend on when somebody asks.
            ages = (recent.times[taken].max() - recent.times[taken]) / np.timedelta64(1, "s") / _SECONDS_A_DAY
            weights, standing = weights[taken] * np.exp(-pixie.decay_per_day * ages), -ages
        else:
            firsts, weights = walks.firsts_of(interests.medoid_pin_ids), interests.importances
            taken = walks.have_edges(firsts)
            weights = standing = weights[taken]
        pins, of_pin = np.unique(firsts[taken], return_inverse=True)
        totals, standings = np.zeros(len(pins)), np.full(len(pins), -np.inf)
        np.add.at(totals, of_pin, weights)
        np.maximum.at(standings, of_pin, standing)
        chosen = np.lexsort((pins, -standings))[: pixie.query_pins]
        return pins[chosen], totals[chosen]

    def _visited(self, visited: Visited, size: int) -> list[Candidate]:
        ids = self._pins.ids[visited.corpus_rows[:size]].tolist()
        return [Candidate(*found, None) for found in zip(ids, visited.scores[:size].tolist(), strict=True)]

    def _blended(self, own: list[Candidate], walked: list[Candidate], budget: int) -> list[Candidate]:
        shares = quotas(budget, self.settings.blending.pixie_share)
        brought = {
            source: {candidate.pin_id: candidate for candidate in candidates}
            for source, candidates in zip(SOURCES, (own, walked), strict=True)
        }
        both = blended(_ranked(own), _ranked(walked), shares).select("source", "pin_id")
        return [brought[source][pin_id] for source, pin_id in both.iter_rows()]

    def _read(self, user_id: int) -> tuple[StoredUser | None, RecentActions]:
        return self._store.read_user(self.version, user_id), self._store.recent(user_id, self._end_of_day, _MOST_RECENT)

    def _of_interest(self, recent: RecentActions) -> NDArray[np.int64]:
        """Which of the recent actions update clusters: the latest that mean interest, on pins that are known."""
        wanted = set(self.settings.window.interest_actions)
        means_interest = np.fromiter((action in wanted for action in recent.actions), bool, len(recent.actions))
        rows = self._pins.rows_of(recent.pin_ids)
        return np.flatnonzero(means_interest & (rows >= 0))[-self.settings.serving.recent_actions :]

    def _update(
        self, user: StoredUser | None, recent: RecentActions, now: datetime.datetime
    ) -> tuple[UpdatedClusters, list[int]]:
        """The clusters of now, and the pins that are not known."""
        stored = user.clusters if user else _NOTHING_STORED
        taken = self._of_interest(recent)
        pin_ids = recent.pin_ids[taken]
        moment = np.datetime64(now.astimezone(datetime.UTC).replace(tzinfo=None), "us")
        # Whose clock is ahead of ours has acted now.
        ages = np.maximum((moment - recent.times[taken]) / np.timedelta64(1, "s"), 0) / _SECONDS_A_DAY
        found = update_clusters(
            stored,
            self._vectors(stored.medoid_pin_ids),
            pin_ids,
            self._vectors(pin_ids),
            ages,
            max(0.0, (now - self._end_of_day).total_seconds() / _SECONDS_A_DAY),
            self.settings.clustering.alpha,
            self.settings.clustering.decay_per_day,
        )
        unknown = recent.pin_ids[self._pins.rows_of(recent.pin_ids) < 0]
        return found, list(dict.fromkeys(unknown.tolist()))

    def _vectors(self, pin_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        rows = self._pins.rows_of(pin_ids)
        if (rows < 0).any():
            raise RuntimeError(f"pin {pin_ids[rows < 0][0]} of the snapshot {self.version} is not among its pins")
        return self._pins.vectors[rows]

    def _seen(self, user: StoredUser | None, recent: RecentActions) -> NDArray[np.int64]:
        """Corpus rows that the user must not be shown: what it acted on in whatever way, and what repeats that."""
        rows = self._pins.rows_of(recent.pin_ids)
        lately = self._pins.corpus_rows[rows[rows >= 0]]
        before = self._pins.rows_of(user.seen_pin_ids) if user else np.empty(0, np.int64)
        return np.concatenate([before, lately[lately >= 0]])

    def _popular(self, seen: NDArray[np.int64], size: int) -> list[Candidate]:
        rows = self._pins.popular_rows
        rows = rows[~np.isin(rows, seen)][:size]
        return [Candidate(pin_id, None, None) for pin_id in self._pins.ids[rows].tolist()]

    def _candidates(
        self, medoid_ids: NDArray[np.int64], shares: NDArray[np.int64], seen: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64], tuple[bool, ...]]:
        """The candidate set: corpus rows, scores and the medoid of each; and which lists were at hand."""
        settings = self.settings.retrieval
        depth = int(shares.max()) + settings.margin
        lists, cached = zip(*(self._neighbours(medoid, depth) for medoid in medoid_ids.tolist()), strict=True)
        while True:
            unseen, cosines = _unseen(lists, seen, self._recommendable)
            sets, own = np.zeros(len(lists), dtype=np.int64), np.arange(len(lists))
            refill = np.array([settings.refill])
            for _, rows, _ in candidate_rows(unseen, sets, own, shares, refill, self._pins.corpus_size):
                return *ranked_candidates(rows, unseen, cosines, shares, medoid_ids), cached
            # Too few are left of what the user has not seen.
            depth = 4 * max(depth, *(len(rows) for rows, _ in lists))
            lists = [self._neighbours(medoid, depth)[0] for medoid in medoid_ids.tolist()]

    def _neighbours(self, medoid: int, depth: int) -> tuple[_List, bool]:
        """At least so many neighbours of a medoid, if there are, and whether they were at hand."""
        depth = min(depth, self._recommendable)
        found = self._pins.neighbours_of(medoid)
        if found is not None and len(found[0]) >= depth:
            return found, True
        with self._lock:
            found = self._searched.get(medoid)
        if found is not None and len(found[0]) >= depth:
            return found, True
        [row] = self._pins.rows_of(np.array([medoid]))
        found = self._search(row, depth)
        with self._lock:
            self._searched[medoid] = found
            self._searched.move_to_end(medoid)
            if len(self._searched) > _LISTS_KEPT:
                self._searched.popitem(last=False)
        return found, False

    def _search(self, row: int, depth: int) -> _List:
        query = self._pins.vectors[row][None]
        if self._recommendable == self._pins.corpus_size:
            ids, cosines = self._index.search(query, depth)
        else:
            ids, cosines = search_among(self._index, query, depth, self._pins.recommendable)
        found = ids[0] != -1
        return self._pins.rows_of(ids[0][found]).astype(np.int32), cosines[0][found]


def _ranked(candidates: list[Candidate]) -> pl.DataFrame:
    """A user's list, as `blended` takes it."""
    pins, scores = [candidate.pin_id for candidate in candidates], [candidate.score for candidate in candidates]
    ranks = pl.int_range(1, len(pins) + 1, dtype=pl.Int32, eager=True)
    columns = {"user_id": pl.repeat(0, len(pins), dtype=pl.Int64, eager=True), "rank": ranks}
    return pl.DataFrame(
        {**columns, "pin_id": pl.Series(pins, dtype=pl.Int64), "score": pl.Series(scores, dtype=pl.Float32)}
    )


def _unseen(lists: Sequence[_List], seen: NDArray[np.int64], most: int) -> tuple[Neighbours, NDArray[np.float32]]:
    """What of the lists may be recommended to the user, and the cosines of it."""
    rows = np.concatenate([rows for rows, _ in lists])
    is_unseen = ~np.isin(rows, seen)
    ends = np.cumsum([len(own) for own, _ in lists])
    starts = np.append(0, np.append(0, np.cumsum(is_unseen))[ends])
    whole = np.array([len(own) >= most for own, _ in lists])
    cosines = np.concatenate([cosines for _, cosines in lists])
    return Neighbours(rows[is_unseen], starts, whole), cosines[is_unseen]


_NOTHING_STORED = StoredClusters(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
