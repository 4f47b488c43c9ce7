"""``evaluation.intervals``: how sure the differences between models are, over a trailing period."""

import datetime
from collections import defaultdict
from collections.abc import Iterator

import dagster as dg
import polars as pl
import polars.selectors as cs

from pinnersage_assets.model.bootstrap import difference_intervals
from pinnersage_assets.model.calibration import FAMILIES
from pinnersage_assets.model.variants import ONLINE, RECLUSTERED
from pinnersage_assets.partitions import DAILY, SAME_DAY, partition_day, reads
from pinnersage_assets.settings import Settings, read_day
from pinnersage_assets.warehouse.database import Warehouse

# Per user, day and model, the mean over seeds.
_SCORES = {
    "relevance": ("evaluation.retrieval_users", "relevant / targets", "true"),
    "recall": ("evaluation.retrieval_users", "recalled / targets", "true"),
    "r_precision": ("evaluation.ranking_users", "r_precision", "negatives = 'impressions'"),
    "reciprocal_rank": ("evaluation.ranking_users", "reciprocal_rank", "negatives = 'impressions'"),
}
# What the day so far is worth to PinnerSage: these are compared with it, too.
_WITHOUT_THE_DAY, _WITH_THE_DAY = "pinnersage", [ONLINE, RECLUSTERED]
_BASELINES = ("last_pin", "decay_average", "last_20_pins", FAMILIES["single_vector"], FAMILIES["last_pins"])


@dg.asset(
    key=["evaluation", "intervals"],
    partitions_def=DAILY,
    # Of earlier days those that were evaluated take part: a gap only makes intervals wider.
    deps=reads(SAME_DAY, "evaluation.retrieval_users", "evaluation.ranking_users"),
    kinds={"numpy"},
    code_version="2",
)
def intervals(context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings) -> pl.DataFrame:
    """95 % intervals of differences to baselines: a bootstrap that resamples users with all their days."""
    day = partition_day(context)
    first = day - datetime.timedelta(days=settings.evaluation.trailing_days - 1)
    scope = {"day": day, "first": max(first, read_day(settings.evaluation.since) or first)}
    frames = []
    for metric, (table, score, condition) in _SCORES.items():
        scores = warehouse.read(
            f"""
            SELECT user_id, dt, model, avg({score}) AS score FROM {table}
            WHERE dt BETWEEN $first AND $day AND {condition} GROUP BY ALL
            """,
            scope,
        )
        wide = scores.pivot("model", index=["user_id", "dt"], values="score").sort("user_id", "dt")
        of_the_day = wide.select("user_id", "dt", cs.by_name(_WITHOUT_THE_DAY, *_WITH_THE_DAY, require_all=False))
        for baseline, scored in [*((name, wide) for name in _BASELINES), (_WITHOUT_THE_DAY, of_the_day)]:
            for models, both in _compared(scored, baseline):
                found = difference_intervals(
                    both["user_id"].to_numpy(),
                    both["dt"].to_physical().to_numpy(),
                    both.select(models).to_numpy(),
                    models.index(baseline),
                    (settings.seed, day.toordinal()),
                )
                frame = pl.DataFrame(
                    {"model": models, "difference": found.differences, "low": found.lows, "high": found.highs}
                )
                frames.append(
                    frame.with_columns(
                        pl.col("low", "high").fill_nan(None),
                        metric=pl.lit(metric),
                        baseline=pl.lit(baseline),
                        users=pl.lit(both["user_id"].n_unique()),
                        days=pl.lit(both["dt"].n_unique()),
                    ).filter(pl.col("model") != baseline)
                )
    columns = ["metric", "model", "baseline", "difference", "low", "high", "users", "days"]
    return pl.concat(frames).select(columns) if frames else pl.DataFrame(schema=columns)


def _compared(wide: pl.DataFrame, baseline: str) -> Iterator[tuple[list[str], pl.DataFrame]]:
    """Models with a baseline, and the users and days on which all of them were judged.

    Most models are judged on all days; one that is calibrated, or new, on some. These are compared apart, on these.
    """
    if baseline not in wide.columns:
        return
    judged = wide.filter(pl.col(baseline).is_not_null())
    groups = defaultdict(list)
    for model in judged.columns[2:]:
        groups[judged[model].is_not_null().to_numpy().tobytes()].append(model)
    for models in groups.values():
        both = judged.filter(pl.all_horizontal(pl.col(models).is_not_null()))
        others = [model for model in models if model != baseline]
        if len(both) and others:
            yield [baseline, *others], both
