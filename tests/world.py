"""A world that tests run the real asset graph in: a data directory, settings, resources, a Dagster instance.

What belongs here: what tests of several folders do with a world. What a world holds is the business of the tests.
"""

import datetime
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import dagster as dg
import duckdb
import polars as pl

from pinnersage_assets import backfill as backfilling
from pinnersage_assets.console import causes
from pinnersage_assets.definitions import defs
from pinnersage_assets.lineage.clean_up import ROWS
from pinnersage_assets.resources import build_resources
from pinnersage_assets.settings import SIMULATED_START_DATE, Environment, Settings
from pinnersage_assets.sources.landing import write_day
from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.tables import all_tables

Day = datetime.date
START = SIMULATED_START_DATE

# What a run may change without changing a result, beside the columns of which schema.yml says so.
NOT_A_RESULT = {
    # What there was to do: nothing, where it has been done.
    "operations.clean_up": ("partitions", "rows", "files", "bytes"),
    "operations.publications": ("run_id", "seconds", "bytes"),
    "operations.partitions": ("run_id", "written_at", "write_number", "content", "inputs"),
}

_QUIET = {"loggers": {"console": {"config": {"log_level": "WARNING"}}}}


def on(offset: int) -> Day:
    """The day that comes so many days after the first partition."""
    return START + datetime.timedelta(days=offset)


def small_settings(**sections) -> Settings:
    """Settings of a world that is materialised in seconds; each section as a dictionary of what differs."""
    usual = {
        "seed": 3,
        "window": {"days": 10},
        "index": {"recall_sample": 100},
        "retrieval": {"budget": 60, "margin": 10},
        "evaluation": {"users": 40, "seeds": 2, "largest_share": 0.1},
        "calibration": {
            "users": 20,
            "alphas": [0.5, 1.2],
            "decays_per_day": [0.01, 0.5],
            "medoids": [2, 6],
            "last_pins": [1, 4],
        },
        "report": {"users": 4},
        # Tests look at the rows of all days.
        "retention": dict.fromkeys(ROWS, 0),
        "simulation": {
            "users": 60,
            "pins": 800,
            "new_pins_per_day": 20,
            "dimensions": 64,
            "topics": 20,
            "actions_per_user_and_day": 2.0,
            "near_duplicate_share": 0.1,
            "low_quality_share": 0.1,
        },
    }
    merged = {
        name: {**usual.get(name, {}), **given} if isinstance(given, dict) else given
        for name, given in {**usual, **sections}.items()
    }
    return Settings(**merged)


# What the ledger says after pins were written anew, which a change behind its back must say as well.
PINS_WRITTEN_ANEW = (
    "UPDATE operations.partitions SET written_at = written_at + INTERVAL 1 SECOND WHERE table_name = 'staging.pins'"
)


@dataclass(frozen=True)
class World:
    """A data directory with the definitions that work on it."""

    data: Path
    settings: Settings
    kind: str
    instance: dg.DagsterInstance

    @classmethod
    def new(cls, data: Path, settings: Settings, kind: str = "simulated") -> "World":
        return cls(data, settings, kind, dg.DagsterInstance.ephemeral())

    def copy(self, data: Path, settings: Settings | None = None) -> "World":
        """The same data in another place, with a Dagster instance that knows nothing of the past."""
        shutil.copytree(self.data, data)
        return replace(self, data=data, settings=settings or self.settings, instance=dg.DagsterInstance.ephemeral())

    @cached_property
    def resources(self) -> dict[str, object]:
        return build_resources(Environment(self.data, self.kind, START), self.settings)

    @cached_property
    def defs(self) -> dg.Definitions:
        parts = {name: getattr(defs, name) for name in ("assets", "asset_checks", "jobs", "schedules", "executor")}
        return dg.Definitions(**parts, resources=self.resources)

    @cached_property
    def _parts(self) -> dict[tuple[str, ...], dg.Definitions]:
        return {}

    @property
    def warehouse(self) -> Warehouse:
        return self.resources["warehouse"]

    @property
    def landing(self) -> Path:
        return self.data / "landing"

    def land(self, table: str, day: Day, rows: pl.DataFrame) -> None:
        write_day(self.landing, table, day, rows, replace=True)

    def backfill(self, first: Day, last: Day, again: bool = False) -> list[backfilling.PlannedRun]:
        """What `make backfill` does; the runs that it made."""
        return list(self.backfilling(first, last, again))

    def backfilling(self, first: Day, last: Day, again: bool = False) -> Iterable[backfilling.PlannedRun]:
        return backfilling.backfill(
            self.defs,
            self.warehouse,
            self.instance,
            START,
            self.settings.longest_window,
            self.settings.evaluation.horizon_days,
            first,
            last,
            again,
        )

    def run(
        self, job: str, first: Day, last: Day | None = None, only: Sequence[str] | None = None
    ) -> dg.ExecuteInProcessResult:
        """Execute a job over some days, or only some of its assets with their checks; the result may be a failure."""
        if last is None:
            scope: dict = {"partition_key": first.isoformat()}
        else:
            bounds = {"start": first, "end": last}
            scope = {"tags": {f"dagster/asset_partition_range_{k}": day.isoformat() for k, day in bounds.items()}}
        if only is None:
            chosen = self.defs.resolve_job_def(job)
        else:
            keys = [dg.AssetKey(table.split(".")) for table in only]
            if (part := tuple(only)) not in self._parts:
                self._parts[part] = self._part(keys)
            chosen, scope["asset_selection"] = self._parts[part].resolve_implicit_global_asset_job_def(), keys
        return chosen.execute_in_process(instance=self.instance, raise_on_error=False, run_config=_QUIET, **scope)

    def _part(self, keys: Sequence[dg.AssetKey]) -> dg.Definitions:
        """Some assets with their checks: of all of them Dagster takes longer to make a job than to execute a few."""
        assets = [asset for asset in defs.assets or () if not asset.keys.isdisjoint(keys)]
        checks = [check for check in defs.asset_checks or () if any(key.asset_key in keys for key in check.check_keys)]
        return dg.Definitions(assets, asset_checks=checks, resources=self.resources, executor=defs.executor)

    def read(self, query: str, **parameters: object) -> pl.DataFrame:
        return self.warehouse.read(query, parameters)

    def execute(self, *statements: str, **parameters: object) -> None:
        """Change the warehouse behind the project's back."""
        with duckdb.connect(str(self.data / "warehouse" / "pinnersage.duckdb")) as connection:
            for statement in statements:
                used = {name: value for name, value in parameters.items() if f"${name}" in statement}
                connection.execute(statement, used)

    def partition(self, table: str, day: Day) -> pl.DataFrame:
        """The results of a partition, in an order that does not depend on how it was written."""
        return self.partitions(day, [table])[table]

    def partitions(self, day: Day, tables: Iterable[str] = tuple(all_tables())) -> dict[str, pl.DataFrame]:
        """The results of a day, by table."""
        found = {}
        with self.warehouse.get_reader() as connection:
            for table in tables:
                columns = [column.name for column in all_tables()[table].columns if column.is_result]
                kept = [column for column in columns if column not in NOT_A_RESULT.get(table, ())]
                query = f"SELECT {', '.join(kept)} FROM {table} WHERE dt = $day ORDER BY ALL"
                found[table] = connection.sql(query, params={"day": day}).pl()
        return found

    def status(self, table: str, day: Day) -> str | None:
        """What the ledger says of a partition, None where it says nothing."""
        rows = self.read(
            "SELECT status FROM operations.partitions WHERE table_name = $table AND dt = $day", table=table, day=day
        )
        return rows.item() if len(rows) else None


def failures(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    """The steps of a run that failed, with the messages of all errors behind each."""
    found = {}
    for event in result.all_events:
        if event.is_step_failure:
            found[event.step_key] = "\n".join(error.message for error in causes(event))
    return found


def differences(one: dict[str, pl.DataFrame], other: dict[str, pl.DataFrame]) -> list[str]:
    """The tables whose rows differ."""
    return [table for table in one if not one[table].equals(other[table])]
