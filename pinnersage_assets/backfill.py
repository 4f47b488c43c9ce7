"""Materialise the whole lineage of some days in this process, and before that the past that those days need.

What is there already is left alone, judged by the ledger: so an interrupted backfill goes on where it stopped. So is
what has expired, but where a run that is to come reads it.
"""

import datetime
import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import dagster as dg

from pinnersage_assets.console import causes, is_interrupt, terminal
from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.ledger import EXPIRED, PASSED, days_by_table

Day = datetime.date
_ONE_DAY = datetime.timedelta(days=1)


class BackfillError(RuntimeError):
    """A run failed; the message says which one."""


@dataclass(frozen=True)
class PlannedRun:
    """One run: a job over the partitions of some consecutive days."""

    job: str
    first: Day
    last: Day

    @property
    def partitions(self) -> dict[str, Any]:
        """The days as `execute_in_process` takes them: ``partition_key``, None where there are many, and ``tags``."""
        if self.first == self.last:
            return {"partition_key": self.first.isoformat(), "tags": {}}
        bounds = {"start": self.first, "end": self.last}
        tags = {f"dagster/asset_partition_range_{end}": day.isoformat() for end, day in bounds.items()}
        return {"partition_key": None, "tags": tags}

    def __str__(self) -> str:
        """As shown in messages."""
        return f"{self.job} {self.first}" + (f" to {self.last}" if self.last > self.first else "")


def check_days(start: Day, first: Day, last: Day) -> None:
    """Refuse days that cannot be backfilled.

    Args:
        start: the first partition.
        first: first day.
        last: last day.

    Raises:
        ValueError: the days are out of order or before the first partition.
    """
    if first < start:
        raise ValueError(f"cannot backfill {first}: the first partition is {start}")
    if last < first:
        raise ValueError(f"cannot backfill {first} to {last}: the last day is before the first")


def plan_backfill(
    defs: dg.Definitions,
    done: Mapping[str, set[Day]],
    expired: Mapping[str, set[Day]],
    start: Day,
    window_days: int,
    horizon_days: int,
    first: Day,
    last: Day,
    again: bool = False,
) -> list[PlannedRun]:
    """The runs that are needed, in order.

    Args:
        defs: where the jobs are.
        done: days of each table that are there and have passed their checks.
        expired: days of each table that had passed, and whose rows are gone: they lack where a later day reads them.
        start: the first partition.
        window_days: the most days, up to a day, that something is made from.
        horizon_days: days after which models are judged; those of so many days before ``first`` are needed.
        first: first day whose whole lineage is wanted.
        last: last such day.
        again: also materialise those of the wanted days that are complete already.

    Returns:
        Pins since the first partition, raw and staging of the window, and near-duplicates since the first partition
        (many days a run), then corpus, users and retrieval of the days before ``first`` that are judged, and the whole
        lineage of the wanted days (a day a run). What has expired and is judged on a wanted day comes before that day.

    Raises:
        ValueError: the days are out of order or before the first partition.
    """
    check_days(start, first, last)
    yesterday = first - _ONE_DAY
    known = max(start, first - horizon_days * _ONE_DAY)
    window_start = max(start, known - (window_days - 1) * _ONE_DAY)

    def lacking(job: str, since: Day, until: Day) -> list[Day]:
        finished = [done.get(table, set()) | expired.get(table, set()) for table in _tables(defs, job)]
        return [day for day in _days(since, until) if not all(day in days for days in finished)]

    runs = [PlannedRun("pins", *span) for span in _spans(lacking("pins", start, window_start - _ONE_DAY))]
    runs += [
        PlannedRun("raw_and_staging", *span) for span in _spans(lacking("raw_and_staging", window_start, yesterday))
    ]
    runs += [PlannedRun("near_duplicates", *span) for span in _spans(lacking("near_duplicates", start, yesterday))]
    wanted = list(_days(first, last)) if again else lacking("daily", first, last)
    judged = {day - horizon_days * _ONE_DAY for day in wanted}
    read_later = _tables(defs, "users_and_retrieval") & _read_by_later_days(defs)
    gone = {day for day in judged - set(wanted) if any(day in expired.get(table, ()) for table in read_later)}
    jobs = dict.fromkeys([*lacking("users_and_retrieval", known, yesterday), *gone], "users_and_retrieval")
    jobs |= dict.fromkeys(wanted, "daily")
    # In the order of days: an earlier wanted day may be part of what a later one reads.
    return runs + [PlannedRun(jobs[day], day, day) for day in sorted(jobs)]


def backfill(
    defs: dg.Definitions,
    warehouse: Warehouse,
    instance: dg.DagsterInstance,
    start: Day,
    window_days: int,
    horizon_days: int,
    first: Day,
    last: Day,
    again: bool = False,
) -> Iterator[PlannedRun]:
    """Execute the runs of `plan_backfill` one after another, yielding each before it starts.

    Raises:
        ValueError: as `plan_backfill`.
        BackfillError: a run failed, or a blocking check of it, or it was interrupted. Call again, once the cause is
            mended: it goes on from there.
    """
    done, expired = _days_with(warehouse, PASSED), _days_with(warehouse, EXPIRED)
    for run in plan_backfill(defs, done, expired, start, window_days, horizon_days, first, last, again):
        yield run
        _execute(defs, warehouse, instance, run)


def plan_stale(
    defs: dg.Definitions, stale: Mapping[Day, AbstractSet[str]], made: Mapping[str, AbstractSet[Day]]
) -> PlannedRun | None:
    """The first run that stale partitions need; None where nothing is stale that a run would make again.

    What it changes can make others stale, of its own days or later ones, and need not: so one is planned at a time.

    Args:
        defs: where the jobs are.
        stale: by day the tables whose partition is stale.
        made: days of each table that are there, whether they have expired or not.

    Returns:
        A run of the first day that has stale partitions: the daily job, where all of the day has been made before, and
        else the first of the others that makes one of them again, for as many days on end as want the same. A day that
        was never finished is for `plan_backfill` to finish.
    """
    jobs = {
        day: next((job for job in ("daily", *_OF_THE_PAST) if _remakes(defs, job, day, tables, made)), None)
        for day, tables in stale.items()
    }
    first = min((day for day, job in jobs.items() if job), default=None)
    if first is None or (job := jobs[first]) is None:
        return None
    last = first
    while job in _MANY_DAYS and jobs.get(last + _ONE_DAY) == job:
        last += _ONE_DAY
    return PlannedRun(job, first, last)


# The jobs that make up the past of a day, in their order; and those of them that make many days in one run.
_OF_THE_PAST = ("raw_and_staging", "pins", "near_duplicates", "users_and_retrieval")
_MANY_DAYS = _OF_THE_PAST[:-1]


def _remakes(
    defs: dg.Definitions, job: str, day: Day, tables: AbstractSet[str], made: Mapping[str, AbstractSet[Day]]
) -> bool:
    """Whether a job makes some of a day's stale tables again, and of the day no table that was not there."""
    own = _tables(defs, job)
    return bool(own & tables) and all(day in made.get(table, ()) for table in own)


def backfill_stale(
    defs: dg.Definitions,
    warehouse: Warehouse,
    instance: dg.DagsterInstance,
    find: Callable[[], Mapping[Day, AbstractSet[str]]],
) -> Iterator[PlannedRun]:
    """Make what is stale again, one run after another, until nothing is; yields each run before it starts.

    Args:
        defs: where the jobs are.
        warehouse: where everything is.
        instance: of Dagster.
        find: says which tables are stale now, by day.

    Raises:
        BackfillError: as `backfill`; or what was made again is stale still.
    """
    executed: set[tuple[str, Day]] = set()
    while run := plan_stale(defs, find(), days_made(warehouse)):
        if (run.job, run.first) in executed:
            raise BackfillError(f"{run} was made again, and is stale still: see operations.stale_partitions")
        executed.add((run.job, run.first))
        yield run
        _execute(defs, warehouse, instance, run)


def days_made(warehouse: Warehouse) -> dict[str, set[Day]]:
    """The days of each table that have passed their checks, whether their rows are there still or have expired."""
    passed, expired = _days_with(warehouse, PASSED), _days_with(warehouse, EXPIRED)
    return {table: passed.get(table, set()) | expired.get(table, set()) for table in passed | expired}


def _execute(defs: dg.Definitions, warehouse: Warehouse, instance: dg.DagsterInstance, run: PlannedRun) -> None:
    partitions = run.partitions
    job = defs.resolve_job_def(run.job).with_logger_defs({"console": terminal})
    result = job.execute_in_process(
        instance=instance,
        # A logger that no configuration names is not used.
        run_config={"loggers": {"console": {}}},
        partition_key=partitions["partition_key"],
        tags=_CODE_LOCATION | partitions["tags"],
        raise_on_error=False,
    )
    failed = [event for event in result.all_events if event.is_step_failure]
    if any(is_interrupt(event) for event in failed):
        raise BackfillError(f"{run} was interrupted; the same command goes on from here")
    if not result.success or failed:
        errors = [
            check
            for check in result.get_asset_check_evaluations()
            if not check.passed and check.severity == dg.AssetCheckSeverity.ERROR
        ]
        reasons = [f"{event.step_key}: {_cause(event)}" for event in failed]
        reasons += [f"check {c.check_name} of {'.'.join(c.asset_key.path)}: {c.description}" for c in errors]
        raise BackfillError(
            f"{run} failed (run {result.run_id}). " + "\n".join(reasons) + f"\n{_mending(reasons, warehouse)} and call "
            "again: what is done stays, and the rest goes on from here."
        )


# As the system puts it; most of those who write pass it on.
_FULL = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT))
_HARDLY_ANY_BYTES = 1_000_000


def _mending(reasons: Sequence[str], warehouse: Warehouse) -> str:
    """What to do before the next call."""
    folder = warehouse.data_folder
    # A folder that could not even be made has its own reason.
    free = shutil.disk_usage(folder).free if folder.exists() else _HARDLY_ANY_BYTES
    if free >= _HARDLY_ANY_BYTES and not any(words in reason for reason in reasons for words in _FULL):
        return "Mend the cause"
    return (
        f"The disk is full: {free / 1e6:,.0f} MB are free where {folder} is. Make room (`du -sh {folder}/*` says what "
        "takes it, the settings under `retention` what is kept)"
    )


# By this tag the UI lists a run under its job; the location's name is that of workspace.yaml.
_CODE_LOCATION = {".dagster/repository": "__repository__@pinnersage"}


def _cause(failure: dg.DagsterEvent) -> str:
    """What happened in a step, without the errors that Dagster wraps it in."""
    errors = causes(failure)
    own = (error for error in errors if not (error.cls_name or "").startswith("Dagster"))
    return next(own, errors[-1]).message.strip()


def _days_with(warehouse: Warehouse, status: str) -> dict[str, set[Day]]:
    try:
        with warehouse.get_reader() as connection:
            return days_by_table(connection, status)
    except FileNotFoundError:
        return {}


def _tables(defs: dg.Definitions, job: str) -> set[str]:
    return {".".join(key.path) for key in defs.resolve_job_def(job).asset_layer.executable_asset_keys}


def _read_by_later_days(defs: dg.Definitions) -> set[str]:
    deps = (dep for spec in defs.resolve_all_asset_specs() for dep in spec.deps)
    return {
        ".".join(dep.asset_key.path)
        for dep in deps
        if isinstance(dep.partition_mapping, dg.TimeWindowPartitionMapping) and dep.partition_mapping.start_offset < 0
    }


def _days(first: Day, last: Day) -> Iterator[Day]:
    return (first + offset * _ONE_DAY for offset in range((last - first).days + 1))


def _spans(days: list[Day]) -> Iterator[tuple[Day, Day]]:
    """Runs of consecutive days, as first and last."""
    while days:
        length = next((i for i in range(1, len(days)) if days[i] - days[i - 1] > _ONE_DAY), len(days))
        yield days[0], days[length - 1]
        days = days[length:]
