"""The daily job and its schedule."""

import dagster as dg

# Steps of one run share one database file and run one after another; what can be parallel is parallel inside a step.
EXECUTOR = dg.in_process_executor

daily = dg.define_asset_job(
    "daily",
    selection=dg.AssetSelection.all(),
    executor_def=EXECUTOR,
    description="All assets of one day, their checks, and the copy that people query.",
)

daily_schedule = dg.build_schedule_from_partitioned_job(
    daily,
    name="daily_schedule",
    description="Materialises yesterday's partition of everything.",
    hour_of_day=1,
    minute_of_hour=0,
)
