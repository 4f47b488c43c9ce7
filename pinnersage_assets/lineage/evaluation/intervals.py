"""``evaluation.intervals``: how sure the differences between models are, over a trailing period."""

import datetime

import dagster as dg
import polars as pl

from pinnersage_assets.model.bootstrap import difference_intervals
from pinnersage_assets.partitions import DAILY, SAME_DAY, partition_day, reads
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.database import Warehouse

# Per user, day and model, the mean over seeds.
_SCORES = {
    "relevance": ("evaluation.retrieval_users", "relevant / targets", "true"),
    "recall": ("evaluation.retrieval_users", "recalled / targets", "true"),
    "r_precision": ("evaluation.ranking_users", "r_precision", "negatives = 'impressions'"),
    "reciprocal_rank": ("evaluation.ranking_users", "reciprocal_rank", "negatives = 'impressions'"),
}
_BASELINES = ("last_pin", "decay_average", "last_20_pins")


@dg.asset(
    key=["evaluation", "intervals"],
    partitions_def=DAILY,
    # Of earlier days those that were evaluated take part: a gap only makes intervals wider.
    deps=reads(SAME_DAY, "evaluation.retrieval_users", "evaluation.ranking_users"),
    kinds={"numpy"},
    code_version="1",
)
def intervals(context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings) -> pl.DataFrame:
    """95 % intervals of differences to baselines: a bootstrap that resamples users with all their days."""
    day = partition_day(context)
    scope = {"day": day, "first": day - datetime.timedelta(days=settings.evaluation.trailing_days - 1)}
    frames = []
    for metric, (table, score, condition) in _SCORES.items():
        scores = warehouse.read(
            f"""
            SELECT user_id, dt, model, avg({score}) AS score FROM {table}
            WHERE dt BETWEEN $first AND $day AND {condition} GROUP BY ALL
            """,
            scope,
        )
        # Models that did not judge every user and day, because they are newer, cannot be compared.
        wide = scores.pivot("model", index=["user_id", "dt"], values="score").sort("user_id", "dt")
        models = [name for name in wide.columns[2:] if wide[name].null_count() == 0]
        days = wide["dt"].to_physical().to_numpy()
        for baseline in _BASELINES:
            if baseline not in models:
                continue
            found = difference_intervals(
                wide["user_id"].to_numpy(),
                days,
                wide.select(models).to_numpy(),
                models.index(baseline),
                (settings.seed, day.toordinal()),
            )
            frames.append(
                pl.DataFrame(
                    {
                        "model": models,
                        "difference": found.differences,
                        "low": found.lows,
                        "high": found.highs,
                    }
                )
                .with_columns(pl.col("low", "high").fill_nan(None))
                .with_columns(
                    metric=pl.lit(metric),
                    baseline=pl.lit(baseline),
                    users=pl.lit(wide["user_id"].n_unique()),
                    days=pl.lit(wide["dt"].n_unique()),
                )
                .filter(pl.col("model") != baseline)
            )
    columns = ["metric", "model", "baseline", "difference", "low", "high", "users", "days"]
    return pl.concat(frames).select(columns) if frames else pl.DataFrame(schema=columns)
