"""The daily partitions, and which partitions of its inputs a day reads.

This is the one place that reads the environment and the settings file at import, because Dagster needs the first
partition and the length of the window when the definitions load.
"""

import datetime
import warnings
from collections.abc import Iterable, Sequence

import dagster as dg

from pinnersage_assets.settings import load_settings, read_environment

# What Dagster still calls beta or preview (backfill policies, partitions of checks) is pinned in constraints.txt and
# tested; its warnings would only hide others.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)

ENVIRONMENT = read_environment()
SETTINGS = load_settings(ENVIRONMENT.data_dir / "settings.toml")

DAILY = dg.DailyPartitionsDefinition(start_date=ENVIRONMENT.start_date.isoformat(), timezone="UTC")

HOUR = 1
"""The hour (UTC) at which the schedule asks for the day that is over."""

# An offset that reaches back before any first partition; Dagster clips it there.
_EVER = -36_500


def _days(start_offset: int, end_offset: int) -> dg.TimeWindowPartitionMapping:
    return dg.TimeWindowPartitionMapping(
        start_offset=start_offset, end_offset=end_offset, allow_nonexistent_upstream_partitions=True
    )


SAME_DAY = _days(0, 0)
"""Day d reads day d."""
WINDOW = _days(1 - SETTINGS.window.days, 0)
"""Day d reads the window that ends with d."""
GRAPH_WINDOW = _days(1 - SETTINGS.graph_days, 0)
"""Day d reads the days that end with d and make up the graph."""
HISTORY = _days(_EVER, 0)
"""Day d reads everything up to d."""
EARLIER = _days(_EVER, -1)
"""Day d reads everything before d: what an asset may read of itself."""
_HORIZON = SETTINGS.evaluation.horizon_days
KNOWN_DAY = _days(-_HORIZON, -_HORIZON)
"""Day d reads the day before the horizon that ends with d: what models knew before the actions that judge them."""
KNOWN_WINDOW = _days(1 - SETTINGS.window.days - _HORIZON, 0)
"""Day d reads the window that ends with that day, and the horizon."""
JUDGING_DAYS = _days(1 - _HORIZON, 0)
"""Day d reads the horizon, d itself included."""


def reads(mapping: dg.TimeWindowPartitionMapping, *tables: str) -> list[dg.AssetDep]:
    """Dependencies on tables such as ``"staging.actions"``, all through one mapping."""
    return [dg.AssetDep(table.split("."), partition_mapping=mapping) for table in tables]


def after(specs: Iterable[dg.AssetSpec]) -> list[dg.AssetDep]:
    """Dependencies of an asset that comes last on all others of its day."""
    return reads(SAME_DAY, *(".".join(spec.key.path) for spec in specs))


def partition_days(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext) -> Sequence[datetime.date]:
    """The days of the partitions that a run is about, in order."""
    return [datetime.date.fromisoformat(key) for key in context.partition_keys]


def partition_day(context: dg.AssetExecutionContext) -> datetime.date:
    """The day of the one partition that a run is about."""
    return datetime.date.fromisoformat(context.partition_key)
