"""``evaluation.protocol``: how a day was judged, so that its numbers can be read (paper, section 5.3)."""

import datetime

import dagster as dg
import numpy as np
import polars as pl

from pinnersage_assets.lineage.evaluation.knowledge import READS, Knowledge, gather_knowledge
from pinnersage_assets.model.random_pairs import share_of_pairs_above
from pinnersage_assets.model.randomness import keyed_sample
from pinnersage_assets.partitions import DAILY, partition_day
from pinnersage_assets.settings import Settings
from pinnersage_assets.sources.landing import fitted_before
from pinnersage_assets.warehouse.database import Warehouse

# All pairs of so many pins are looked at.
_SAMPLED_PINS = 2_000


@dg.asset(
    key=["evaluation", "protocol"],
    partitions_def=DAILY,
    deps=READS,
    kinds={"numpy"},
    code_version="1",
)
def protocol(context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings) -> pl.DataFrame:
    """Who was judged on what, and how much a relevant pin says; a row also where nobody was judged."""
    today = partition_day(context)
    known = gather_knowledge(warehouse, settings, today)
    fitted = fitted_before(warehouse.data_folder / "landing")
    acted, cold = known.counts["users who did something new"], known.counts["cold users, not judged"]
    users = known.users
    sample = keyed_sample(known.corpus_ids, _SAMPLED_PINS, "random pairs", settings.seed, today.toordinal())
    pins = known.pins.select(sample)[:]
    row = {
        "known_day": known.day,
        "horizon_days": (today - known.day).days,
        "users_who_acted": acted,
        "cold_users": cold,
        "judged_users": len(users.user_ids),
        "targets": len(users.target_users),
        "targets_without_vector": np.count_nonzero(users.target_rows < 0),
        "corpus_pins": len(known.corpus_ids),
        "budget": known.budget,
        "relevance_cosine": settings.evaluation.relevance_cosine,
        "random_pairs_above": share_of_pairs_above(pins, settings.evaluation.relevance_cosine),
        "fitted_before": fitted,
        "reason": _why_nobody_is_judged(known, today, fitted),
    }
    return pl.DataFrame([row], schema_overrides=_TYPES).with_columns(pl.col("random_pairs_above").fill_nan(None))


_TYPES = {"random_pairs_above": pl.Float64, "fitted_before": pl.Date, "reason": pl.String}


def _why_nobody_is_judged(known: Knowledge, today: datetime.date, fitted: datetime.date | None) -> str | None:
    if len(known.users.user_ids):
        return None
    after = known.day + datetime.timedelta(days=1)
    if fitted and after < fitted:
        return f"embeddings were fitted to actions before {fitted}, and would look too good on them"
    when = f"on {today}" if after == today else f"from {after} to {today}"
    if not (acted := known.counts["users who did something new"]):
        return f"nobody did anything new {when}"
    return f"nothing was known, as of {known.day}, of the {acted:,} users who did something new {when}"
