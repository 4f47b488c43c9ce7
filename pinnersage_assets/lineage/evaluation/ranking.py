"""``evaluation.ranking*``: the candidate ranking task (paper, section 5.3.2, Table 5)."""

import datetime
from collections.abc import Iterator

import dagster as dg
import numpy as np
import polars as pl
from numpy.typing import NDArray

from pinnersage_assets.lineage.evaluation import models
from pinnersage_assets.lineage.evaluation.knowledge import READS, Knowledge, gather_knowledge, seeds_of
from pinnersage_assets.model.population import rows_of
from pinnersage_assets.model.ranking_metrics import Candidates, Negatives, best_cosines, draw_negatives, rank_metrics
from pinnersage_assets.model.selected_vectors import Vectors
from pinnersage_assets.model.user_sets import Pairs
from pinnersage_assets.model.variants import Variant
from pinnersage_assets.partitions import DAILY, JUDGING_DAYS, SAME_DAY, partition_day, reads
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.pin_vectors import pin_vectors

# What the judged users were shown after the day that models know, of known pins, and did not act on.
_IMPRESSIONS = """
    SELECT DISTINCT i.user_id, i.pin_id FROM staging.impressions AS i
    WHERE i.dt > $day AND i.dt <= $today AND list_contains($users, i.user_id)
        AND i.pin_id IN (SELECT pin_id FROM staging.pins WHERE dt <= $today)
        AND NOT EXISTS (
            FROM staging.actions AS a
            WHERE a.dt > $day AND a.dt <= $today AND a.user_id = i.user_id AND a.pin_id = i.pin_id
        )
"""

_NOBODY = Pairs(np.empty(0, np.int64), np.empty(0, np.int64))


@dg.asset(
    key=["evaluation", "ranking_users"],
    partitions_def=DAILY,
    deps=[*READS, *models.READS, *reads(JUDGING_DAYS, "staging.impressions")],
    kinds={"numpy"},
    code_version="2",
)
def ranking_users(
    context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings
) -> dg.MaterializeResult[pl.DataFrame]:
    """How high each model ranks what users did next, among what they were shown and among pins drawn at random."""
    today = partition_day(context)
    known = gather_knowledge(warehouse, settings, today, context.log)
    frames, drawn, metadata, candidates = [], [], dict(known.counts), {}
    if len(known.users):
        ids, vectors, wanted, shown = _pins_to_rank(warehouse, known, today)
        in_corpus = np.isin(ids, known.corpus_ids)
        popularity = np.zeros(len(ids))
        popularity[in_corpus] = known.popularity
        seen = Pairs.of(known.task.seen.users, np.flatnonzero(in_corpus)[known.task.seen.rows])
        kinds = {
            "impressions": (shown, in_corpus.astype(float)),
            "random": (_NOBODY, in_corpus.astype(float)),
            "popular": (_NOBODY, popularity),
        }
        for kind, (impressions, pool) in kinds.items():
            negatives = draw_negatives(
                known.task.targets.users,
                wanted,
                impressions,
                seen,
                pool,
                settings.evaluation.negatives_per_action,
                known.users,
                ids,
                (settings.seed, known.day.toordinal()),
            )
            candidates[kind] = Candidates.of(known.task.targets.users, wanted, negatives.pairs)
            drawn.append(_drawn(known, kind, negatives))
        of_impressions = pl.concat(drawn).filter(negatives="impressions")
        metadata["share of impressions padded at random"] = of_impressions["padded"].sum() / max(
            1, of_impressions["drawn"].sum()
        )
        joined = Candidates.joined(list(candidates.values()))
        for model, variant in models.models_to_judge(warehouse, settings, known).items():
            frames += _ranked(known, model, variant, settings, candidates, *joined, vectors)
            context.log.info(f"ranked by {model}")
    if not frames:
        return dg.MaterializeResult(value=pl.DataFrame(schema=_COLUMNS), metadata=metadata)
    rows = pl.concat(frames).join(pl.concat(drawn), on=["user_id", "negatives"])
    return dg.MaterializeResult(value=rows, metadata=metadata)


_COLUMNS = ["user_id", "model", "seed", "negatives", "actions", "r_precision", "reciprocal_rank", "drawn", "padded"]


def _drawn(known: Knowledge, kind: str, negatives: Negatives) -> pl.DataFrame:
    """Of each user how many negatives there are, and how many are random for want of impressions."""
    return pl.DataFrame(
        {
            "user_id": known.users,
            "negatives": kind,
            "drawn": np.bincount(negatives.pairs.users, minlength=len(known.users)),
            # The other kinds are random to begin with.
            "padded": negatives.from_pool if kind == "impressions" else None,
        },
        schema_overrides={"padded": pl.Int64},
    )


def _pins_to_rank(
    warehouse: Warehouse, known: Knowledge, today: datetime.date
) -> tuple[NDArray[np.int64], Vectors, NDArray[np.int64], Pairs]:
    """Ids and vectors of all pins that may be ranked, each target's row (-1 without a vector), and what was shown."""
    shown = warehouse.read(_IMPRESSIONS, {"day": known.day, "today": today, "users": known.users.tolist()})
    targets = known.target_pins["vector_pin_id"]
    extra = pl.concat([shown["pin_id"], targets.drop_nulls()])
    pins = pin_vectors(warehouse, today)
    ids = np.union1d(known.corpus_ids, np.intersect1d(extra.to_numpy(), pins.ids))
    wanted = np.full(len(targets), -1)
    has_vector = targets.is_not_null().to_numpy()
    wanted[has_vector] = rows_of(ids, targets.drop_nulls().to_numpy())
    users = np.searchsorted(known.users, shown["user_id"].to_numpy())
    return ids, pins.select(ids), wanted, Pairs.of(users, rows_of(ids, shown["pin_id"].to_numpy()))


def _ranked(
    known: Knowledge,
    model: str,
    variant: Variant,
    settings: Settings,
    candidates: dict[str, Candidates],
    together: Candidates,
    kinds: NDArray[np.int64],
    vectors: Vectors,
) -> Iterator[pl.DataFrame]:
    """A row a seed and user for each kind of negatives; a cosine is computed once for all seeds and kinds."""
    seeds = seeds_of(variant, settings)
    chosen = [known.population.select(variant, (seed, known.day.toordinal())) for seed in seeds]
    owners = np.searchsorted(known.users, np.concatenate([some.user_ids for some in chosen]))
    medoids = np.concatenate([some.medoid_rows for some in chosen])
    different, first, which = np.unique(
        np.stack([owners, medoids], axis=1), axis=0, return_index=True, return_inverse=True
    )
    embeddings = np.concatenate([some.vectors for some in chosen])[first]
    selections = np.zeros((len(seeds), len(different)), dtype=bool)
    selections[np.repeat(np.arange(len(seeds)), [len(some.user_ids) for some in chosen]), which] = True
    scores = best_cosines(together, vectors, different[:, 0], embeddings, selections)
    for number, (negatives, own) in enumerate(candidates.items()):
        found = rank_metrics(own, scores[:, kinds == number], len(known.users))
        yield pl.DataFrame(
            {
                "user_id": np.tile(known.users, len(seeds)),
                "seed": np.repeat(np.array(seeds, dtype=np.int32), len(known.users)),
                "actions": np.tile(found.actions, len(seeds)),
                "r_precision": found.r_precision.ravel(),
                "reciprocal_rank": found.reciprocal_rank.ravel(),
            }
        ).with_columns(model=pl.lit(model), negatives=pl.lit(negatives))


@dg.asset(
    key=["evaluation", "ranking"],
    partitions_def=DAILY,
    deps=reads(SAME_DAY, "evaluation.ranking_users"),
    kinds={"polars"},
    code_version="2",
)
def ranking(context: dg.AssetExecutionContext, warehouse: Warehouse) -> pl.DataFrame:
    """Means over users, after those over seeds."""
    return warehouse.read(
        """
        SELECT model, negatives, avg(r_precision) AS r_precision, avg(reciprocal_rank) AS reciprocal_rank,
            count(DISTINCT user_id) AS users,
            sum(r_precision * actions) / sum(actions) AS r_precision_over_actions,
            sum(reciprocal_rank * actions) / sum(actions) AS reciprocal_rank_over_actions,
            count(DISTINCT seed) AS seeds, sum(padded) / nullif(sum(drawn), 0) AS padded_share
        FROM evaluation.ranking_users WHERE dt = $day GROUP BY model, negatives ORDER BY negatives, model
        """,
        {"day": partition_day(context)},
    )
