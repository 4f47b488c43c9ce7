"""The jobs and the schedule.

``daily`` is what runs every day. The others make up the past that it needs: `backfill` runs them, and they can be
launched over a range of partitions in the UI.
"""

import warnings

import dagster as dg

# Steps of one run share one database file and run one after another; what can be parallel is parallel inside a step.
EXECUTOR = dg.in_process_executor

# Dagster tells us that `daily` backfills a day a run because some of its assets do. That is what we want.
warnings.filterwarnings("ignore", message="Asset job daily materializes assets with varying BackfillPolicies")


def _job(name: str, selection: dg.AssetSelection, description: str):
    return dg.define_asset_job(name, selection=selection, executor_def=EXECUTOR, description=description)


daily = _job("daily", dg.AssetSelection.all(), "All assets of one day, their checks, and the copy that people query.")

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
    | dg.AssetSelection.groups("users", "retrieval"),
    "Which pins may be recommended, users' embeddings and recommendations, one day a run: what the next day's "
    "evaluation needs.",
)

JOBS = [daily, raw_and_staging, pins, near_duplicates, users_and_retrieval]

daily_schedule = dg.build_schedule_from_partitioned_job(
    daily,
    name="daily_schedule",
    description="Materialises yesterday's partition of everything, at 01:00 UTC.",
    hour_of_day=1,
    minute_of_hour=0,
)
