"""``evaluation.*``: the models of yesterday judged on the actions of today (paper, section 5.3).

Corpus, popularity and users' windows are as of the day before; nothing that a model uses is of the day itself.
"""

import datetime

import dagster as dg
import numpy as np
import polars as pl
from numpy.typing import NDArray

from pinnersage_assets.ann.exact import exact_search
from pinnersage_assets.lineage.queries import (
    CORPUS_VECTORS,
    INTEREST_ACTIONS,
    SEEN_CORPUS_PINS,
    pin_vectors,
    window,
)
from pinnersage_assets.model.population import rows_of
from pinnersage_assets.model.randomness import keyed_uniform
from pinnersage_assets.model.retrieval_metrics import (
    Pairs,
    Targets,
    judge,
    popular_rows,
)
from pinnersage_assets.model.retrieval_models import MODELS, Knowledge
from pinnersage_assets.partitions import (
    DAILY,
    HISTORY,
    SAME_DAY,
    YESTERDAY,
    YESTERDAYS_WINDOW,
    partition_day,
    reads,
)
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.database import Warehouse

# What users did today that they had not seen in the window: a row a user and group of near-duplicates. The target is
# the group's pin in yesterday's corpus; a pin that is new today stands for itself; one that may not be recommended, or
# that is not known, has no vector and is a miss.
TARGETS = """
    WITH grouped AS (
        SELECT p.pin_id, p.dt, coalesce(d.canonical_pin_id, p.pin_id) AS pin_group
        FROM staging.pins AS p LEFT JOIN corpus.near_duplicates AS d ON p.pin_id = d.pin_id
        WHERE p.dt <= $today
    ),
    recommendable AS (
        SELECT g.pin_group, c.pin_id FROM corpus.pins AS c JOIN grouped AS g ON c.pin_id = g.pin_id WHERE c.dt = $day
    ),
    acted AS (
        SELECT a.dt, a.user_id, a.pin_id, a.action, coalesce(g.pin_group, a.pin_id) AS pin_group
        FROM staging.actions AS a LEFT JOIN grouped AS g ON a.pin_id = g.pin_id
        WHERE a.dt BETWEEN $first AND $today
    ),
    next_actions AS (
        SELECT user_id, pin_group, min(pin_id) AS pin_id FROM acted AS a
        WHERE dt = $today AND list_contains($interest, action) AND NOT EXISTS (
            FROM acted AS b WHERE b.dt <= $day AND b.user_id = a.user_id AND b.pin_group = a.pin_group
        )
        GROUP BY user_id, pin_group
    )
    SELECT n.user_id, r.pin_id AS corpus_pin_id,
        CASE
            WHEN r.pin_id IS NOT NULL THEN r.pin_id
            WHEN n.pin_id IN (SELECT pin_id FROM corpus.excluded WHERE dt <= $today) THEN NULL
            ELSE (SELECT g.pin_id FROM grouped AS g WHERE g.pin_id = n.pin_id)
        END AS vector_pin_id
    FROM next_actions AS n LEFT JOIN recommendable AS r ON n.pin_group = r.pin_group
    ORDER BY n.user_id, n.pin_group
"""

# The actions that models know, of pins with a vector.
KNOWN_ACTIONS = f"""
    SELECT a.user_id, a.pin_id, epoch($day + INTERVAL 1 DAY - a.ts) / 86400 AS age
    FROM ({INTEREST_ACTIONS}) AS a WHERE a.pin_id IN (SELECT pin_id FROM staging.pins WHERE dt <= $day)
    ORDER BY a.user_id, age, a.pin_id
"""

# PinnerSage is judged by what was really recommended.
RECOMMENDED = "SELECT user_id, pin_id FROM retrieval.recommendations WHERE dt = $day"


@dg.asset(
    key=["evaluation", "retrieval_users"],
    partitions_def=DAILY,
    deps=[
        *reads(YESTERDAYS_WINDOW, "staging.actions"),
        *reads(HISTORY, "staging.pins", "corpus.near_duplicates", "corpus.excluded"),
        *reads(YESTERDAY, "retrieval.recommendations", "corpus.pins"),
    ],
    kinds={"numpy"},
    code_version="1",
)
def retrieval_users(
    context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings
) -> dg.MaterializeResult[pl.DataFrame]:
    """Every model's candidate set for every user who did something new, and how much of it the set foresaw."""
    today = partition_day(context)
    scope = window(today - datetime.timedelta(days=1), settings)
    targets = warehouse.read(TARGETS, {**scope, "today": today})
    actions = warehouse.read(KNOWN_ACTIONS, scope)
    users, cold = _users_to_judge(targets, actions, settings, today)
    judged = []
    if len(users):
        known = _yesterday(warehouse, settings, scope, users, actions)
        wanted = _targets(warehouse, targets, known, today)
        for model, candidates_of in MODELS.items():
            counts = judge(candidates_of(known), wanted, known.corpus, len(users), settings.evaluation.relevance_cosine)
            judged.append(pl.DataFrame({"user_id": users, **vars(counts)}).with_columns(model=pl.lit(model)))
            context.log.info(f"judged {model} on {len(users):,} users")
    rows = pl.concat(judged) if judged else pl.DataFrame(schema=["user_id", "model", *_COUNTS])
    return dg.MaterializeResult(
        value=rows.with_columns(seed=pl.lit(settings.seed, pl.Int32)),
        metadata={"users who did something new": targets["user_id"].n_unique(), "cold users, not judged": cold},
    )


_COUNTS = ("targets", "relevant", "recalled", "set_size")


def _users_to_judge(
    targets: pl.DataFrame, actions: pl.DataFrame, settings: Settings, today: datetime.date
) -> tuple[NDArray[np.int64], int]:
    """Users with something to foresee and something known, ascending, sampled by seed; and how many lack the latter."""
    wanted, known = targets["user_id"].unique(), actions["user_id"].unique()
    warm = np.intersect1d(wanted.to_numpy(), known.to_numpy())
    order = np.argsort(keyed_uniform("evaluated users", settings.seed, today.toordinal(), warm))
    return np.sort(warm[order[: settings.evaluation.users]]), len(wanted) - len(warm)


def _yesterday(
    warehouse: Warehouse,
    settings: Settings,
    scope: dict[str, object],
    users: NDArray[np.int64],
    actions: pl.DataFrame,
) -> Knowledge:
    day = scope["day"]
    corpus_ids, corpus = warehouse.read_vectors(CORPUS_VECTORS, {"day": day})
    pin_ids, vectors = pin_vectors(warehouse, f"SELECT pin_id FROM ({INTEREST_ACTIONS})", scope)

    def numbered(frame: pl.DataFrame, pin: str, ids: NDArray[np.int64], row: str) -> pl.DataFrame:
        own = _rows_of_users(frame, users)
        return own.with_columns(pl.Series(row, rows_of(ids, own[pin].to_numpy())))

    seen_pins = warehouse.read(SEEN_CORPUS_PINS, {"day": day, "first": scope["first"]})
    seen = numbered(seen_pins, "pin_id", corpus_ids, "row")
    recommended = numbered(warehouse.read(RECOMMENDED, {"day": day}), "pin_id", corpus_ids, "row")
    acted = actions.filter(pl.col("pin_id").is_in(corpus_ids.tolist()))
    return Knowledge(
        users=users,
        corpus_ids=corpus_ids,
        corpus=corpus,
        search=lambda queries, k: exact_search(queries, corpus, k)[0],
        seen=Pairs.of(seen["user"].to_numpy(), seen["row"].to_numpy()),
        actions=numbered(actions, "pin_id", pin_ids, "pin_row"),
        vectors=vectors,
        recommended=Pairs.of(recommended["user"].to_numpy(), recommended["row"].to_numpy()),
        popular=popular_rows(rows_of(corpus_ids, acted["pin_id"].to_numpy()), len(corpus)),
        budget=settings.retrieval.budget,
        decay_per_day=settings.evaluation.decay_per_day,
        keys=(settings.seed, day.toordinal()),
    )


def _rows_of_users(frame: pl.DataFrame, users: NDArray[np.int64]) -> pl.DataFrame:
    """The rows of some users, with the place of each among them as ``user``."""
    numbers = pl.DataFrame({"user_id": users, "user": np.arange(len(users))})
    return frame.join(numbers, on="user_id", maintain_order="left")


def _targets(warehouse: Warehouse, targets: pl.DataFrame, known: Knowledge, today: datetime.date) -> Targets:
    own = _rows_of_users(targets, known.users)
    wanted_pins = own["vector_pin_id"].drop_nulls().unique().to_list()
    ids, vectors = pin_vectors(warehouse, "SELECT unnest($pins)", {"day": today, "pins": wanted_pins})
    has_vector = own["vector_pin_id"].is_not_null().to_numpy()
    wanted = np.zeros((len(own), known.corpus.shape[1]), dtype=np.float32)
    wanted[has_vector] = vectors[rows_of(ids, own["vector_pin_id"].drop_nulls().to_numpy())]
    in_corpus = own["corpus_pin_id"].is_not_null().to_numpy()
    rows = np.full(len(own), -1)
    rows[in_corpus] = rows_of(known.corpus_ids, own["corpus_pin_id"].drop_nulls().to_numpy())
    return Targets(own["user"].to_numpy(), rows, wanted)


@dg.asset(
    key=["evaluation", "retrieval"],
    partitions_def=DAILY,
    deps=reads(SAME_DAY, "evaluation.retrieval_users"),
    kinds={"polars"},
    code_version="1",
)
def retrieval(context: dg.AssetExecutionContext, warehouse: Warehouse) -> pl.DataFrame:
    """Means over users: a user with many actions counts as much as one with few."""
    return warehouse.read(
        """
        SELECT model, avg(relevant / targets) AS relevance, avg(recalled / targets) AS recall,
            avg(set_size) AS set_size, count(*) AS users
        FROM evaluation.retrieval_users WHERE dt = $day GROUP BY model ORDER BY model
        """,
        {"day": partition_day(context)},
    )


ASSETS = [retrieval_users, retrieval]
