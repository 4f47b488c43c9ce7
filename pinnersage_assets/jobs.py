"""The jobs, and what asks for the daily one: a schedule, or a sensor.

``daily`` is what runs every day. The others make up the past that it needs: `backfill` runs them, and they can be
launched over a range of partitions in the UI.
"""

import datetime
import hashlib
import json
import warnings
from pathlib import Path

import dagster as dg
import duckdb

from pinnersage_assets.lateness import yesterday_is_published
from pinnersage_assets.partitions import DAILY, HOUR
from pinnersage_assets.settings import Settings
from pinnersage_assets.sources.landing import day_folder
from pinnersage_assets.sources.source import Source
from pinnersage_assets.warehouse.database import Warehouse

# Steps of one run share one database file and run one after another; what can be parallel is parallel inside a step.
EXECUTOR = dg.in_process_executor

# Dagster tells us that `daily` backfills a day a run because some of its assets do. That is what we want.
warnings.filterwarnings("ignore", message="Asset job daily materializes assets with varying BackfillPolicies")


def _job(name: str, selection: dg.AssetSelection, description: str):
    return dg.define_asset_job(name, selection=selection, executor_def=EXECUTOR, description=description)


daily = _job(
    "daily",
    dg.AssetSelection.all() - dg.AssetSelection.checks(yesterday_is_published),
    "All assets of one day, their checks, and the copy that people query.",
)

raw_and_staging = _job(
    "raw_and_staging", dg.AssetSelection.groups("raw", "staging"), "What came in, cleaned: many days in one run."
)

pins = _job(
    "pins",
    dg.AssetSelection.assets(["raw", "pins"], ["staging", "pins"], ["staging", "rejected"]),
    "Pins only, those that staging refuses included: many days in one run.",
)

near_duplicates = _job(
    "near_duplicates",
    dg.AssetSelection.assets(["corpus", "near_duplicates"]),
    "Which pins repeat an earlier one: many days in one run.",
)

users_and_retrieval = _job(
    "users_and_retrieval",
    dg.AssetSelection.assets(["corpus", "excluded"], ["corpus", "pins"])
    | dg.AssetSelection.groups("users", "graph", "retrieval"),
    "Which pins may be recommended, users' embeddings, the graph and recommendations, one day a run: what the next "
    "day's evaluation needs.",
)

JOBS = [daily, raw_and_staging, pins, near_duplicates, users_and_retrieval]

daily_schedule = dg.build_schedule_from_partitioned_job(
    daily,
    name="daily_schedule",
    description=f"Materialises yesterday's partition of everything, at {HOUR:02}:00 UTC.",
    hour_of_day=HOUR,
    minute_of_hour=0,
)


@dg.sensor(
    job=daily,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Asks for the daily job of every complete day (UTC) whose events the service has landed, and again "
    "when late ones have; of a day without events when a later one has landed. Use this, or the schedule, which asks "
    f"for yesterday at {HOUR:02}:00 whatever has landed; not both.",
)
def landed_events(context: dg.SensorEvaluationContext, source: Source) -> dg.SensorResult | dg.SkipReason:
    """Compare the landed files, by name and size, with those of the cursor: a day is asked for once in each state."""
    if source.kind != "landing":
        return dg.SkipReason("PINNERSAGE_SOURCE is simulated: the lineage does not read what events have landed")
    folder, asked = Path(source.landing_folder), json.loads(context.cursor or "{}")
    complete = DAILY.get_partition_keys(current_time=datetime.datetime.now(datetime.UTC))
    states = {day: _landed_state(folder, day) for day in complete}
    landed = [day for day, state in states.items() if state]
    # A day between two that have landed is over as well: nobody did anything, and a window must have no gap.
    states = {day: state for day, state in states.items() if state or (landed and landed[0] < day < landed[-1])}
    requests = [
        dg.RunRequest(run_key=f"{day} {state or 'quiet'}", partition_key=day)
        for day, state in states.items()
        if asked.get(day) != state
    ]
    if not requests:
        return dg.SkipReason(f"no events of a complete day have landed in {folder} since it was last asked for")
    return dg.SensorResult(run_requests=requests, cursor=json.dumps(states))


@dg.sensor(
    jobs=[daily, raw_and_staging],
    minimum_interval_seconds=300,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Asks for the days again whose landing files have changed since raw tables read them, as the published "
    "copy tells it: the daily job where it made the day before, and raw and staging where they alone did. What that "
    "makes stale on later days is in operations.stale_partitions: `make backfill STALE=1`.",
)
def changed_landing_files(
    context: dg.SensorEvaluationContext, source: Source, warehouse: Warehouse, settings: Settings
) -> dg.SensorResult | dg.SkipReason:
    """A day is asked for once in each state of its files; files that are gone ask for nothing."""
    if source.kind != "landing":
        return dg.SkipReason("PINNERSAGE_SOURCE is simulated: no files are read")
    if not Path(warehouse.published).exists():
        return dg.SkipReason(f"nothing has been published yet at {warehouse.published}")
    with duckdb.connect(warehouse.published, read_only=True) as published:
        read = published.execute(_FILES_READ).fetchall()
        finished = {day for (day,) in published.execute(_FINISHED).fetchall()}
    changed: dict[datetime.date, list[tuple[str, int]]] = {}
    for table, day, digest in read:
        now = source.state(settings, table.removeprefix("raw."), [day])[day]["landing"]
        if now not in (0, digest):
            changed.setdefault(day, []).append((table, now))
    if not changed:
        return dg.SkipReason(f"the landing files of {len(read)} partitions are those that were read")
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(
                run_key=f"{day} {sorted(files)}",
                partition_key=str(day),
                job_name=(daily if day in finished else raw_and_staging).name,
            )
            for day, files in sorted(changed.items())
        ]
    )


_FILES_READ = """
    SELECT table_name, dt, inputs['landing'] FROM operations.partitions
    WHERE starts_with(table_name, 'raw.') AND inputs['landing'] IS NOT NULL ORDER BY ALL
"""
# Of a publication the copy does not tell, for it was made before.
_FINISHED = "SELECT dt FROM operations.partitions WHERE table_name = 'operations.stale_partitions'"


def _landed_state(folder: Path, day: str) -> str:
    """Stands for the names and sizes of the files that the service has landed; empty where there are none."""
    paths = sorted(day_folder(folder, "actions", datetime.date.fromisoformat(day)).glob("events-*.parquet"))
    files = [(path.name, path.stat().st_size) for path in paths]
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16] if files else ""
