"""What models may know of users as of a day, and what these users did next: the same for every model (section 5.3).

Corpus, popularity and users' windows are as of the day before the horizon, which is one day unless a setting says
otherwise; nothing that a model uses is of the horizon itself, but for the online model, which is there for that. How
models are judged is the business of `kernels.evaluation`, bucket by bucket.
"""

import datetime
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pinnersage_assets.engines.engine import Engine
from pinnersage_assets.kernels.evaluation import COLUMNS
from pinnersage_assets.lineage.by_bucket import map_buckets
from pinnersage_assets.lineage.corpus_index import describe_corpus_index
from pinnersage_assets.lineage.queries import (
    DAYS_SINCE,
    INTEREST_ACTIONS,
    SEEN_CORPUS_PINS,
    SEEN_SINCE,
    corpus_ids,
    of_users,
    window,
)
from pinnersage_assets.model.judged_users import JudgedUsers
from pinnersage_assets.model.population import rows_of
from pinnersage_assets.model.randomness import keyed_sample
from pinnersage_assets.model.selected_vectors import SelectedVectors
from pinnersage_assets.model.user_sets import Pairs
from pinnersage_assets.model.variants import Variant
from pinnersage_assets.partitions import HISTORY, KNOWN_DAY, KNOWN_WINDOW, SAME_DAY, reads
from pinnersage_assets.progress import log_progress
from pinnersage_assets.settings import Settings
from pinnersage_assets.sources.landing import fitted_before
from pinnersage_assets.warehouse.buckets import Bucket
from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.partitions import scratch_folder
from pinnersage_assets.warehouse.pin_vectors import PinVectors, pin_vectors

# What users did after the day that models know, up to today, and had not seen in the window (or all of it, to keep what
# was seen): a row a user and group of near-duplicates. The target is the group's pin in the corpus that models know; a
# pin that may be recommended by today stands for itself; one that may not, or that is not known, has no vector and is a
# miss. It counts from when the user first acted on the group, in whatever way. What was seen is looked up by the pins
# of the groups: so the actions of the window, which are most of what is read, need no group.
TARGETS = f"""
    WITH grouped AS (
        SELECT p.pin_id, coalesce(d.canonical_pin_id, p.pin_id) AS pin_group
        FROM staging.pins AS p LEFT JOIN corpus.near_duplicates AS d ON p.pin_id = d.pin_id
        WHERE p.dt <= $today
    ),
    acted AS (
        SELECT a.user_id, a.pin_id, a.action, a.ts, coalesce(g.pin_group, a.pin_id) AS pin_group
        FROM staging.actions AS a LEFT JOIN grouped AS g ON a.pin_id = g.pin_id
        WHERE a.dt > $day AND a.dt <= $today
    ),
    next_actions AS (
        SELECT user_id, pin_group, min(pin_id) FILTER (list_contains($interest, action)) AS pin_id, min(ts) AS ts
        FROM acted GROUP BY user_id, pin_group HAVING bool_or(list_contains($interest, action))
    ),
    alike AS (
        SELECT user_id, pin_group, pin_group AS pin_id FROM next_actions
        UNION
        SELECT n.user_id, n.pin_group, g.pin_id FROM next_actions AS n JOIN grouped AS g ON n.pin_group = g.pin_group
    ),
    seen AS (
        SELECT m.user_id, m.pin_group
        FROM staging.actions AS a JOIN alike AS m ON a.user_id = m.user_id AND a.pin_id = m.pin_id
        WHERE a.dt BETWEEN $first AND $day AND NOT $keep_seen
    ),
    recommendable AS (
        SELECT g.pin_group, c.pin_id FROM corpus.pins AS c JOIN grouped AS g ON c.pin_id = g.pin_id WHERE c.dt = $day
    )
    SELECT n.user_id, {DAYS_SINCE.format(ts="n.ts")} AS days_since, r.pin_id AS corpus_pin_id,
        CASE
            WHEN r.pin_id IS NOT NULL THEN r.pin_id
            WHEN n.pin_id IN (SELECT pin_id FROM corpus.excluded WHERE dt = $today) THEN NULL
            ELSE (SELECT g.pin_id FROM grouped AS g WHERE g.pin_id = n.pin_id)
        END AS vector_pin_id
    FROM next_actions AS n
    ANTI JOIN seen AS s ON n.user_id = s.user_id AND n.pin_group = s.pin_group
    LEFT JOIN recommendable AS r ON n.pin_group = r.pin_group
    ORDER BY n.user_id, n.pin_group
"""

# The actions that models know, of pins with a vector.
_KNOWN = f"({INTEREST_ACTIONS}) AS a WHERE a.pin_id IN (SELECT pin_id FROM staging.pins WHERE dt <= $day)"

# Of everybody who has such actions, the id; and the actions of some.
KNOWN_USERS = f"SELECT DISTINCT a.user_id FROM {_KNOWN}"
KNOWN_ACTIONS = f"""
    SELECT a.user_id, a.pin_id, epoch($day + INTERVAL 1 DAY - a.ts) / 86400 AS age
    FROM {_KNOWN}
"""

# How often everybody together acted on each corpus pin. There are fewer pins than actions to look up in the corpus.
_POPULARITY = f"""
    FROM (SELECT pin_id, count(*) AS actions FROM ({INTEREST_ACTIONS}) GROUP BY pin_id)
    WHERE pin_id IN (SELECT pin_id FROM corpus.pins WHERE dt = $day)
"""

# What users did since the known day, of pins known by then: the service has no vectors of others.
_ACTIONS_SINCE = f"""
    SELECT user_id, pin_id, {DAYS_SINCE.format(ts="ts")} AS days_since FROM staging.actions
    WHERE dt > $day AND dt <= $today AND list_contains($interest, action)
        AND pin_id IN (SELECT pin_id FROM staging.pins WHERE dt <= $day)
"""

# What users were shown after the day that models know, of known pins, and did not act on.
_IMPRESSIONS = """
    SELECT DISTINCT i.user_id, i.pin_id FROM staging.impressions AS i
    WHERE i.dt > $day AND i.dt <= $today
        AND i.pin_id IN (SELECT pin_id FROM staging.pins WHERE dt <= $today)
        AND NOT EXISTS (
            FROM staging.actions AS a
            WHERE a.dt > $day AND a.dt <= $today AND a.user_id = i.user_id AND a.pin_id = i.pin_id
        )
"""

# What was really recommended: by the index, the graph and the settings as they are.
_RECOMMENDED = "SELECT user_id, pin_id FROM {table} WHERE dt = $day"

# What an asset reads that asks for `knowledge`.
READS = [
    *reads(KNOWN_WINDOW, "staging.actions"),
    *reads(HISTORY, "staging.pins", "corpus.near_duplicates"),
    *reads(SAME_DAY, "corpus.excluded"),
    *reads(KNOWN_DAY, "corpus.pins", "retrieval.hnsw_index"),
]
# And what it reads besides, if it asks for what was shown, or recommended: by the name under which that is judged.
SHOWN = "staging.impressions"
RECOMMENDED = {
    "recommended": "retrieval.recommendations",
    "pixie": "retrieval.pixie_recommendations",
    "blended": "retrieval.blended_recommendations",
}


@dataclass(frozen=True)
class Knowledge:
    """What is known of the users that are judged, and what is asked of every model."""

    day: datetime.date
    """The day as of which models know."""
    users: JudgedUsers
    pins: PinVectors
    """Known by the day that judges."""
    corpus_ids: NDArray[np.int64]
    """(m,) as of the day that models know."""
    budget: int
    counts: dict[str, int]
    """Users who did something new, and how many of them are cold: nothing is known of them, and nobody judges them."""

    @property
    def corpus(self) -> SelectedVectors:
        """(m, n) the vectors of the corpus."""
        return self.pins.select(self.corpus_ids)


# Lists are searched deeper than the shares of models, so that their ends, which an index finds less surely, rarely
# count: of a million pins the 133 nearest are found to 97.4 % with this, to 97.9 % with what medoids are searched with.
_LEAST_EXPANSION = 1.5
# Users of a task: each has a second of work or so, which is long beside what a task takes by itself.
_USERS_A_BUCKET = 250


def map_users(
    known: Knowledge,
    kernel: str,
    variants: Mapping[str, Variant],
    warehouse: Warehouse,
    settings: Settings,
    engine: Engine,
    log: logging.Logger,
    seeds: Sequence[int] | None = None,
    arrays: Mapping[str, NDArray] | None = None,
    **parameters: Any,
) -> pl.DataFrame:
    """Run a kernel of `kernels.evaluation` over the users that are judged.

    Args:
        known: the users.
        kernel: the function's name.
        variants: by name.
        warehouse: where scratch files and the index are.
        settings: how models are judged.
        engine: where.
        log: of progress, and of an index that must be built again.
        seeds: those of the settings, unless otherwise said.
        arrays: what this kernel needs more, as files by name.
        parameters: what it needs besides.

    Returns:
        What the kernel wrote, the first users first.
    """
    nobody = pl.DataFrame(schema=COLUMNS[kernel])
    # On the first day there is no index either.
    if not len(known.users.user_ids):
        return nobody
    evaluation = settings.evaluation
    shared: dict[str, Any] = {
        "searches_exactly": len(known.corpus_ids) <= evaluation.exact_up_to,
        "alpha": settings.clustering.alpha,
        "seed": settings.seed,
        "day": known.day.toordinal(),
        "budget": known.budget,
        "relevance_cosine": evaluation.relevance_cosine,
        "variants": {name: asdict(variant) for name, variant in variants.items()},
        "seeds": list(seeds or seeds_of(settings)),
    }
    with scratch_folder(warehouse) as folder:
        index = describe_corpus_index(warehouse, known.day, folder, log) | {"least_expansion": _LEAST_EXPANSION}
        for name, array in (arrays or {}).items():
            shared[name] = str(folder / f"{name}.npy")
            np.save(shared[name], array, allow_pickle=False)
        found = map_buckets(
            engine,
            f"pinnersage_assets.kernels.evaluation:{kernel}",
            _write_buckets(known.users, folder),
            {**shared, "index": index, **parameters},
            folder / "found",
            log_progress(log, "buckets of users"),
            keeps_rows=False,
        )
        return pl.concat([nobody, *(pl.read_parquet(file, hive_partitioning=False) for file in found)])


def seeds_of(settings: Settings) -> range:
    """One for each draw of what is sampled."""
    return range(settings.seed, settings.seed + settings.evaluation.seeds)


def mean_over_users(judged: pl.DataFrame, *more: str) -> pl.DataFrame:
    """Of each model's set means over users (Table 4): model, relevance, recall, users, and more where they are defined.

    Args:
        judged: what a kernel found of one set a model.
        more: columns of it.
    """
    return judged.group_by("model", maintain_order=True).agg(
        (pl.col("relevant") / pl.col("targets")).mean().alias("relevance"),
        (pl.col("recalled") / pl.col("targets")).mean().alias("recall"),
        *(pl.col(name).fill_nan(None).mean() for name in more),
        pl.len().alias("users"),
    )


def _write_buckets(users: JudgedUsers, folder: Path) -> list[Bucket]:
    total, buckets = len(users.user_ids), []
    # Alike in size: workers that share them end together.
    bounds = np.linspace(0, total, -(-total // _USERS_A_BUCKET) + 1).astype(int)
    for number, (first, last) in enumerate(pairwise(bounds.tolist())):
        path = folder / f"{number:06}.npz"
        users.part(first, last).save(path)
        buckets.append(Bucket(str(number), path, last - first))
    return buckets


def gather_knowledge(
    warehouse: Warehouse,
    settings: Settings,
    today: datetime.date,
    most_users: int | None = None,
    also: Collection[str] = (),
) -> Knowledge:
    """Everything that the evaluation of a day needs to know; of no user, where nobody can be judged.

    Args:
        warehouse: where everything is.
        settings: how models are judged.
        today: the day that judges.
        most_users: fewer than are evaluated, drawn by the same seed, are some of them.
        also: `SHOWN` and the tables of `RECOMMENDED`, where these are of interest.
    """
    # Attached once for all that is read of it.
    with warehouse.get_reader():
        return _gather(warehouse, settings, today, most_users or settings.evaluation.users, also)


def _gather(
    warehouse: Warehouse, settings: Settings, today: datetime.date, most_users: int, also: Collection[str]
) -> Knowledge:
    day = today - datetime.timedelta(days=settings.evaluation.horizon_days)
    scope = window(day, settings)
    targets = warehouse.read(TARGETS, {**scope, "today": today, "keep_seen": settings.evaluation.keep_seen})
    if knows_the_future(warehouse, day + datetime.timedelta(days=1)):
        targets = targets.clear()
    user_ids, counts = _users_to_judge(
        targets["user_id"].unique(),
        warehouse.read(KNOWN_USERS, scope)["user_id"],
        most_users,
        (settings.seed, today.toordinal()),
    )
    pins, corpus = pin_vectors(warehouse, today), corpus_ids(warehouse, day)
    users = _gather_users(warehouse, settings, scope, today, also, user_ids, targets, pins, corpus)
    return Knowledge(day, users, pins, corpus, budget(settings, len(corpus)), counts)


def popularity(warehouse: Warehouse, settings: Settings, known: Knowledge) -> NDArray[np.int64]:
    """Actions of all users inside the window on each corpus pin, (m,)."""
    acted = warehouse.read(_POPULARITY, window(known.day, settings))
    actions = np.zeros(len(known.corpus_ids), dtype=np.int64)
    actions[rows_of(known.corpus_ids, acted["pin_id"].to_numpy())] = acted["actions"].to_numpy()
    return actions


def _gather_users(
    warehouse: Warehouse,
    settings: Settings,
    scope: dict[str, Any],
    today: datetime.date,
    also: Collection[str],
    user_ids: NDArray[np.int64],
    targets: pl.DataFrame,
    pins: PinVectors,
    corpus: NDArray[np.int64],
) -> JudgedUsers:
    """What is known of some users, and what they did next."""
    numbers = pl.DataFrame({"user_id": user_ids, "user": np.arange(len(user_ids))})
    values = {**scope, "today": today, "users": user_ids.tolist()}

    def rows(query: str, *names: str) -> pl.DataFrame:
        found = warehouse.read(of_users(query), {name: values[name] for name in (*names, "users")})
        return found.join(numbers, on="user_id").sort("user", maintain_order=True)

    def pairs(query: str, *names: str) -> Pairs:
        """Of users and corpus rows."""
        found = rows(query, *names)
        return Pairs.of(found["user"].to_numpy(), rows_of(corpus, found["pin_id"].to_numpy()))

    actions = rows(KNOWN_ACTIONS, "day", "first", "interest")
    later = rows(_ACTIONS_SINCE, "day", "today", "interest").sort("user", "days_since", "pin_id")
    nobody = Pairs.of(*np.empty((2, 0), int))
    seen, seen_later, shown = nobody, later.clear(), later.clear()
    if not settings.evaluation.keep_seen:
        seen = pairs(SEEN_CORPUS_PINS, "day", "first")
        seen_later = rows(SEEN_SINCE, "day", "today").sort("user", "days_since", "pin_id")
    if SHOWN in also:
        shown = rows(_IMPRESSIONS, "day", "today").sort("user", "pin_id")
    recommended = [
        pairs(_RECOMMENDED.format(table=table), "day") if table in also else nobody for table in RECOMMENDED.values()
    ]
    recommended_users = np.concatenate([some.users for some in recommended])
    by_user = np.argsort(recommended_users, kind="stable")
    wanted = targets.join(numbers, on="user_id", maintain_order="left")
    pin_ids = np.union1d(actions["pin_id"].to_numpy(), later["pin_id"].to_numpy())
    return JudgedUsers(
        user_ids=user_ids,
        pin_ids=pin_ids,
        pin_rows=pins.select(pin_ids).rows,
        action_users=actions["user"].to_numpy(),
        action_pins=np.searchsorted(pin_ids, actions["pin_id"].to_numpy()),
        action_ages=actions["age"].to_numpy(),
        seen_users=seen.users,
        seen_corpus=seen.rows,
        target_users=wanted["user"].to_numpy(),
        target_corpus=_where_known(wanted["corpus_pin_id"], lambda ids: rows_of(corpus, ids)),
        target_rows=_where_known(wanted["vector_pin_id"], lambda ids: pins.select(ids).rows),
        target_days=wanted["days_since"].to_numpy(),
        target_pin_ids=wanted["vector_pin_id"].fill_null(0).to_numpy(),
        later_users=later["user"].to_numpy(),
        later_pins=np.searchsorted(pin_ids, later["pin_id"].to_numpy()),
        later_days=later["days_since"].to_numpy(),
        seen_later_users=seen_later["user"].to_numpy(),
        seen_later_corpus=rows_of(corpus, seen_later["pin_id"].to_numpy()),
        seen_later_days=seen_later["days_since"].to_numpy(),
        recommended_users=recommended_users[by_user],
        recommended_by=np.repeat(np.arange(len(recommended)), [len(some.users) for some in recommended])[by_user],
        recommended_corpus=np.concatenate([some.rows for some in recommended])[by_user],
        shown_users=shown["user"].to_numpy(),
        shown_pin_ids=shown["pin_id"].to_numpy(),
        shown_rows=pins.select(shown["pin_id"].to_numpy()).rows,
    )


def _where_known(pins: pl.Series, rows: Callable[[NDArray[np.int64]], NDArray[np.int64]]) -> NDArray[np.int64]:
    """The rows of pins, -1 where there is no pin."""
    found = np.full(len(pins), -1)
    found[pins.is_not_null().to_numpy()] = rows(pins.drop_nulls().to_numpy())
    return found


def knows_the_future(warehouse: Warehouse, first: datetime.date) -> bool:
    """Whether embeddings were fitted to actions of this day or later: judged on them, they would look too good."""
    fitted = fitted_before(warehouse.data_folder / "landing")
    return fitted is not None and first < fitted


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
