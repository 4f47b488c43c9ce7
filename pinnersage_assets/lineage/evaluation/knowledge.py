"""What models may know of users as of a day, and what these users did next: the same for every model (section 5.3).

Corpus, popularity and users' windows are as of the day before the horizon, which is one day unless a setting says
otherwise; nothing that a model uses is of the horizon itself. What the online model knows more is in `moments`.
"""

import datetime
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pinnersage_assets.ann.exact import exact_search
from pinnersage_assets.ann.restricted import CorpusIndex
from pinnersage_assets.lineage.corpus_index import open_corpus_index
from pinnersage_assets.lineage.queries import (
    DAYS_SINCE,
    INTEREST_ACTIONS,
    SEEN_CORPUS_PINS,
    window,
)
from pinnersage_assets.model.population import rows_of
from pinnersage_assets.model.randomness import keyed_sample
from pinnersage_assets.model.retrieval_task import RetrievalTask, Search, SetCounts, Targets, judge_variants
from pinnersage_assets.model.user_sets import Pairs
from pinnersage_assets.model.variants import UserEmbeddings, Variant
from pinnersage_assets.partitions import HISTORY, KNOWN_DAY, KNOWN_WINDOW, SAME_DAY, reads
from pinnersage_assets.progress import log_progress
from pinnersage_assets.settings import Settings
from pinnersage_assets.sources.landing import fitted_before
from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.pin_vectors import pin_vectors

# What users did after the day that models know, up to today, and had not seen in the window (or all of it, to keep what
# was seen): a row a user and group of near-duplicates. The target is the group's pin in the corpus that models know; a
# pin that may be recommended by today stands for itself; one that may not, or that is not known, has no vector and is a
# miss. It counts from when the user first acted on the group, in whatever way.
TARGETS = f"""
    WITH grouped AS (
        SELECT p.pin_id, p.dt, coalesce(d.canonical_pin_id, p.pin_id) AS pin_group
        FROM staging.pins AS p LEFT JOIN corpus.near_duplicates AS d ON p.pin_id = d.pin_id
        WHERE p.dt <= $today
    ),
    recommendable AS (
        SELECT g.pin_group, c.pin_id FROM corpus.pins AS c JOIN grouped AS g ON c.pin_id = g.pin_id WHERE c.dt = $day
    ),
    acted AS (
        SELECT a.dt, a.user_id, a.pin_id, a.action, a.ts, coalesce(g.pin_group, a.pin_id) AS pin_group
        FROM staging.actions AS a LEFT JOIN grouped AS g ON a.pin_id = g.pin_id
        WHERE a.dt BETWEEN $first AND $today
            AND a.user_id IN (SELECT user_id FROM staging.actions WHERE dt > $day AND dt <= $today)
    ),
    next_actions AS (
        SELECT user_id, pin_group, min(pin_id) FILTER (list_contains($interest, action)) AS pin_id, min(ts) AS ts
        FROM acted AS a
        WHERE dt > $day AND ($keep_seen OR NOT EXISTS (
            FROM acted AS b WHERE b.dt <= $day AND b.user_id = a.user_id AND b.pin_group = a.pin_group
        ))
        GROUP BY user_id, pin_group HAVING bool_or(list_contains($interest, action))
    )
    SELECT n.user_id, {DAYS_SINCE.format(ts="n.ts")} AS days_since, r.pin_id AS corpus_pin_id,
        CASE
            WHEN r.pin_id IS NOT NULL THEN r.pin_id
            WHEN n.pin_id IN (SELECT pin_id FROM corpus.excluded WHERE dt = $today) THEN NULL
            ELSE (SELECT g.pin_id FROM grouped AS g WHERE g.pin_id = n.pin_id)
        END AS vector_pin_id
    FROM next_actions AS n LEFT JOIN recommendable AS r ON n.pin_group = r.pin_group
    ORDER BY n.user_id, n.pin_group
"""

# The actions that models know, of pins with a vector.
_KNOWN = f"({INTEREST_ACTIONS}) AS a WHERE a.pin_id IN (SELECT pin_id FROM staging.pins WHERE dt <= $day)"

# Of everybody who has such actions, the id; and the actions of some.
KNOWN_USERS = f"SELECT DISTINCT a.user_id FROM {_KNOWN}"
KNOWN_ACTIONS = f"""
    SELECT a.user_id, a.pin_id, epoch($day + INTERVAL 1 DAY - a.ts) / 86400 AS age
    FROM {_KNOWN} AND a.user_id IN (SELECT unnest($users)) ORDER BY a.user_id, age, a.pin_id
"""

# How often everybody together acted on each corpus pin.
_POPULARITY = f"""
    SELECT a.pin_id, count(*) AS actions FROM ({INTEREST_ACTIONS}) AS a
    WHERE a.pin_id IN (SELECT pin_id FROM corpus.pins WHERE dt = $day) GROUP BY a.pin_id
"""

_SEEN = f"SELECT user_id, pin_id FROM ({SEEN_CORPUS_PINS}) WHERE user_id IN (SELECT unnest($users))"

# Pins that are clustered: nothing but the online model looks at those of later actions.
_CLUSTERED_PINS = """
    SELECT DISTINCT pin_id FROM staging.actions
    WHERE dt BETWEEN $first AND $today AND list_contains($interest, action) AND user_id IN (SELECT unnest($users))
"""

# What an asset reads that asks for `knowledge`.
READS = [
    *reads(KNOWN_WINDOW, "staging.actions"),
    *reads(HISTORY, "staging.pins", "corpus.near_duplicates"),
    *reads(SAME_DAY, "corpus.excluded"),
    *reads(KNOWN_DAY, "corpus.pins", "retrieval.hnsw_index"),
]


@dataclass(frozen=True)
class Knowledge:
    """What is known of the users that are judged, and what is asked of every model; users in the order of their ids."""

    day: datetime.date
    """The day as of which models know."""
    users: NDArray[np.int64]
    population: UserEmbeddings
    task: RetrievalTask
    index: CorpusIndex
    searches_exactly: bool
    corpus_ids: NDArray[np.int64]
    target_pins: pl.DataFrame
    """A row a target, in their order: vector_pin_id, null without a vector; days_since, from the end of the day to the
    user's first action on it."""
    popularity: NDArray[np.int64]
    """(m,) actions of all users inside the window on each corpus pin."""
    counts: dict[str, int]
    """Users who did something new, and how many of them are cold: nothing is known of them, and nobody judges them."""

    def search(self, queries: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        """The nearest corpus rows: in a corpus that is small enough exactly, otherwise by the index."""
        if self.searches_exactly:
            return exact_search(queries, self.task.corpus, k)[0]
        return self.search_index(queries, k)

    def search_index(self, queries: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        """The nearest corpus rows by the index; where it finds too few, deeper, as for recommendations."""
        k = min(k, len(self.index.ids))
        found, depth = self.index.search(queries, k)[0], k
        # This ends: a search for more than a tenth of the corpus is exact.
        while len(short := np.flatnonzero((found == -1).any(axis=1))):
            depth *= 4
            found[short] = self.index.search(queries[short], depth)[0][:, :k]
        return rows_of(self.index.ids, found.ravel()).reshape(found.shape)

    def judge(
        self,
        variants: Mapping[str, Variant],
        seeds: Iterable[int],
        log: logging.Logger,
        search: Search | None = None,
        keep: Callable[[str, int, int, NDArray[np.int64]], object] | None = None,
    ) -> tuple[list[tuple[str, int]], SetCounts]:
        """As `judge_variants`; searched as by `search`, unless otherwise said."""
        keys = {seed: (seed, self.day.toordinal()) for seed in seeds}
        report = log_progress(log, "users")
        return judge_variants(
            self.population, self.users, variants, keys, self.task, search or self.search, report, keep
        )

    def pairs(self, frame: pl.DataFrame) -> Pairs:
        """Columns user_id and pin_id as pairs, of these users and of corpus pins."""
        own = _of_users(frame, self.users)
        return Pairs.of(own["user"].to_numpy(), rows_of(self.corpus_ids, own["pin_id"].to_numpy()))


def gather_knowledge(
    warehouse: Warehouse,
    settings: Settings,
    today: datetime.date,
    log: logging.Logger,
    most_users: int | None = None,
) -> Knowledge:
    """Everything that the evaluation of a day needs to know; of no user, where nobody can be judged.

    Fewer users than are evaluated, drawn by the same seed, are some of them.
    """
    day = today - datetime.timedelta(days=settings.evaluation.horizon_days)
    scope = window(day, settings)
    keep_seen = settings.evaluation.keep_seen
    targets = warehouse.read(TARGETS, {**scope, "today": today, "keep_seen": keep_seen})
    if knows_the_future(warehouse, day + datetime.timedelta(days=1)):
        targets = targets.clear()
    everybody = warehouse.read(KNOWN_USERS, scope)["user_id"]
    users, counts = _users_to_judge(
        targets["user_id"].unique(),
        everybody,
        most_users or settings.evaluation.users,
        (settings.seed, today.toordinal()),
    )
    of_users = {**scope, "users": users.tolist()}
    index = open_corpus_index(warehouse, day, log)
    corpus_ids, corpus = index.ids, index.vectors
    until_today = {name: of_users[name] for name in ("first", "interest", "users")} | {"today": today}
    clustered = warehouse.read(_CLUSTERED_PINS, until_today)["pin_id"].to_numpy()
    pin_ids, vectors = pin_vectors(warehouse, today).known(clustered)
    own = warehouse.read(KNOWN_ACTIONS, of_users)
    population = UserEmbeddings(
        own["user_id"].to_numpy(),
        rows_of(pin_ids, own["pin_id"].to_numpy()),
        own["age"].to_numpy(),
        pin_ids,
        vectors,
        settings.clustering.alpha,
        (settings.seed, day.toordinal()),
    )
    seen = Pairs.of(*np.empty((2, 0), int))
    if not keep_seen:
        pairs = warehouse.read(_SEEN, {name: of_users[name] for name in ("day", "first", "users")})
        pairs = _of_users(pairs, users)
        seen = Pairs.of(pairs["user"].to_numpy(), rows_of(corpus_ids, pairs["pin_id"].to_numpy()))
    task = RetrievalTask(
        len(users),
        corpus,
        seen,
        _targets(warehouse, targets, users, corpus_ids, corpus.shape[1], today),
        budget(settings, len(corpus)),
        settings.evaluation.relevance_cosine,
    )
    acted = warehouse.read(_POPULARITY, scope)
    popularity = np.zeros(len(corpus), dtype=np.int64)
    popularity[rows_of(corpus_ids, acted["pin_id"].to_numpy())] = acted["actions"].to_numpy()
    return Knowledge(
        day,
        users,
        population,
        task,
        index,
        len(corpus) <= settings.evaluation.exact_up_to,
        corpus_ids,
        _of_users(targets, users),
        popularity,
        counts,
    )


def knows_the_future(warehouse: Warehouse, first: datetime.date) -> bool:
    """Whether embeddings were fitted to actions of this day or later: judged on them, they would look too good."""
    fitted = fitted_before(warehouse.data_folder / "landing")
    return fitted is not None and first < fitted


def seeds_of(variant: Variant, settings: Settings) -> range:
    """The seeds of a variant: of one that does not sample only the first, which is that of the recommendations."""
    seeds = settings.evaluation.seeds if variant.selection == "sampled" else 1
    return range(settings.seed, settings.seed + seeds)


def budget(settings: Settings, corpus_size: int) -> int:
    """Candidates that every model gives: that of the setting, or the largest share of the corpus if that is less."""
    return max(1, min(settings.retrieval.budget, int(settings.evaluation.largest_share * corpus_size)))


def _users_to_judge(
    wanted: pl.Series, known: pl.Series, most_users: int, keys: tuple[int, int]
) -> tuple[NDArray[np.int64], dict[str, int]]:
    """Users with something to foresee and something known, ascending, sampled by seed; and the counts of others."""
    warm = np.intersect1d(wanted.to_numpy(), known.to_numpy())
    judged = keyed_sample(warm, most_users, "evaluated users", *keys)
    counts = {"users who did something new": len(wanted), "cold users, not judged": len(wanted) - len(warm)}
    return judged, counts


def _of_users(frame: pl.DataFrame, users: NDArray[np.int64]) -> pl.DataFrame:
    """The rows of some users, with the place of each among them as ``user``."""
    numbers = pl.DataFrame({"user_id": users, "user": np.arange(len(users))})
    return frame.join(numbers, on="user_id", maintain_order="left")


def _targets(
    warehouse: Warehouse,
    targets: pl.DataFrame,
    users: NDArray[np.int64],
    corpus_ids: NDArray[np.int64],
    dimensions: int,
    today: datetime.date,
) -> Targets:
    own = _of_users(targets, users)
    wanted_pins = own["vector_pin_id"].drop_nulls().to_numpy()
    ids, vectors = pin_vectors(warehouse, today).known(wanted_pins)
    has_vector = own["vector_pin_id"].is_not_null().to_numpy()
    wanted = np.zeros((len(own), dimensions), dtype=np.float32)
    wanted[has_vector] = vectors[rows_of(ids, own["vector_pin_id"].drop_nulls().to_numpy())]
    in_corpus = own["corpus_pin_id"].is_not_null().to_numpy()
    rows = np.full(len(own), -1)
    rows[in_corpus] = rows_of(corpus_ids, own["corpus_pin_id"].drop_nulls().to_numpy())
    return Targets(own["user"].to_numpy(), rows, wanted)
