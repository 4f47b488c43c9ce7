"""What tells that the daily job is late: a check of the last asset that it makes, and the sensor that evaluates it.

Dagster's own facilities do not fit. Its freshness policies look at when something was materialised, which any old day
is, and not at the newest partition; its freshness checks are runs, and runs take turns: they would wait for the run
that hangs. So the sensor evaluates the check itself and starts no run.
"""

import datetime
import json
from typing import Any

import dagster as dg

from pinnersage_assets.partitions import DAILY, HOUR
from pinnersage_assets.settings import Settings

_NAME = "yesterday_is_published"
_PUBLICATIONS = dg.AssetKey(["operations", "publications"])


@dg.asset_check(
    name=_NAME,
    asset=_PUBLICATIONS,
    description=f"Yesterday was published within `checks.hours_to_publish` hours of {HOUR:02}:00 UTC, as far as this "
    "Dagster instance knows. The sensor `late_days` evaluates it.",
)
def yesterday_is_published(context: dg.AssetCheckExecutionContext, settings: Settings) -> dg.AssetCheckResult:
    """For whoever executes it in the UI; no part of the daily job, whose own day may be any."""
    return dg.AssetCheckResult(**_evaluate(context.instance, settings))


@dg.sensor(
    minimum_interval_seconds=300,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description=f"Warns, by the check {_NAME} of operations.publications, when a day has not been published in time. "
    "It starts no run, and so does not wait for one that hangs.",
)
def late_days(context: dg.SensorEvaluationContext, settings: Settings) -> dg.SensorResult:
    """Enter a result when it is another, and after each publication, of which the UI wants one newer than that."""
    result = _evaluate(context.instance, settings)
    last = context.instance.get_latest_materialization_event(_PUBLICATIONS)
    state = json.dumps([result["description"], last.timestamp if last else None])
    return dg.SensorResult(
        skip_reason=result["description"],
        asset_events=[dg.AssetCheckEvaluation(**result)] if state != context.cursor else [],
        cursor=state,
    )


def _evaluate(instance: dg.DagsterInstance, settings: Settings) -> dict[str, Any]:
    hours = settings.checks.hours_to_publish
    due = DAILY.get_partition_keys(current_time=_now() - datetime.timedelta(hours=HOUR + hours))
    late = bool(due) and due[-1] not in instance.get_materialized_partitions(_PUBLICATIONS)
    if late:
        description = (
            f"{due[-1]} has not been published {hours:g} hours after {HOUR:02}:00 UTC. See under Runs whether its run "
            "goes on, waits or has failed. If there was none, see under Automation whether daily_schedule (or "
            f"landed_events) is on. `make backfill FROM={due[-1]} TO={due[-1]}` makes up for the day."
        )
    else:
        description = f"{due[-1]} has been published." if due else "No day is due yet."
    return {
        "asset_key": _PUBLICATIONS,
        "check_name": _NAME,
        "passed": not late,
        "severity": dg.AssetCheckSeverity.WARN,
        "description": description,
    }


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
