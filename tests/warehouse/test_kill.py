"""SIGKILL at any moment of a write or a publication: what is on disk is the old state or the new one, whole."""

import contextlib
import datetime
import os
import random
import shutil
import signal
import time
from pathlib import Path

import duckdb
import polars as pl
import pytest

from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.ledger import record_status, writing_times
from pinnersage_assets.warehouse.partitions import ParquetFiles, replace_partitions
from pinnersage_assets.warehouse.publishing import publish
from pinnersage_assets.warehouse.tables import Column, Table

DAYS = [datetime.date(2026, 3, 1), datetime.date(2026, 3, 2)]
ROWS_A_DAY = 10_000
TABLE = Table(
    "raw",
    "versions",
    Path("schema.yml"),
    "Rows that all carry the number of the write they come from.",
    (Column("dt", "DATE", "Day."), Column("version", "BIGINT", "Write."), Column("text", "VARCHAR", "Bulk.")),
    (),
    {},
)


def write_version(connection, version: int, warehouse: Warehouse | None = None) -> None:
    """Replace both days; from Parquet files if a warehouse is given."""
    frame = pl.DataFrame({"dt": pl.Series(DAYS).repeat_by(ROWS_A_DAY).explode()}).with_columns(
        version=pl.lit(version), text=pl.format("row {} of version {}", pl.int_range(pl.len()), pl.lit(version))
    )
    rows = frame if warehouse is None else ParquetFiles.spool(warehouse, [frame])
    replace_partitions(connection, TABLE, DAYS, rows, run_id=f"run {version}")


def state(connection) -> int | None:
    """The one version that both days hold completely, and that the ledger says they hold; None before the first."""
    tables = connection.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'versions'").fetchall()
    if tables == [(0,)]:
        return None
    rows = connection.execute("SELECT dt, version, count(*) FROM raw.versions GROUP BY ALL ORDER BY dt").fetchall()
    if not rows:
        return None
    version = rows[0][1]
    assert rows == [(day, version, ROWS_A_DAY) for day in DAYS]
    ledger = connection.execute(
        "SELECT dt, run_id, rows FROM operations.partitions WHERE table_name = 'raw.versions' ORDER BY dt"
    ).fetchall()
    assert ledger == [(day, f"run {version}", ROWS_A_DAY) for day in DAYS]
    return version


def check_warehouse(warehouse: Warehouse) -> int | None:
    """Open the file as a reader does and then as a writer does; both must see the same."""
    version = None
    if Path(warehouse.database).exists():
        with warehouse.get_reader() as connection:
            version = state(connection)
    with warehouse.get_connection() as connection:
        assert state(connection) == version
    return version


# What other processes do.


def paths(warehouse: Warehouse) -> dict[str, str]:
    return {"database": warehouse.database, "published": warehouse.published}


def write_on_and_on(places: dict[str, str], version: int, pipe) -> None:
    warehouse = Warehouse(**places)
    while True:
        with warehouse.get_connection() as connection:
            write_version(connection, version, warehouse if version % 2 else None)
        pipe.send(version)
        version += 1


def publish_on_and_on(places: dict[str, str], version: int, pipe) -> None:
    warehouse = Warehouse(**places)
    while True:
        write_and_publish(warehouse, version)
        pipe.send(version)
        version += 1


def write_and_publish(warehouse: Warehouse, version: int) -> None:
    with warehouse.get_connection() as connection:
        write_version(connection, version)
        record_status(connection, TABLE.key, writing_times(connection, TABLE.key, DAYS), failed=[])
    publish(warehouse, ledger_of="operations.publications")


def write_until_statement(places: dict[str, str], version: int, last: int) -> None:
    warehouse = Warehouse(**places)
    with warehouse.get_connection() as connection:
        write_version(_KilledAtStatement(connection, last), version)


class _KilledAtStatement:
    """A connection whose process is killed before its n-th call."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, n: int) -> None:
        self._connection, self._left = connection, n

    def __getattr__(self, name: str):
        self._left -= 1
        if self._left < 0:
            _kill_this_process()
        return getattr(self._connection, name)


def publish_until(places: dict[str, str], call: str) -> None:
    """Publish, and be killed before, in the middle of or after one of the calls that publishing makes."""
    moment, _, function = call.partition(" ")
    owner = {"copyfileobj": shutil, "fsync": os, "replace": os, "chmod": Path, "unlink": Path}[function]
    real = getattr(owner, function)

    def killing(*arguments, **options):
        if moment == "half":
            arguments[1].write(arguments[0].read(100_000))
            arguments[1].flush()
        if moment == "after":
            real(*arguments, **options)
        _kill_this_process()

    setattr(owner, function, killing)
    publish(Warehouse(**places), ledger_of="operations.publications")


def _kill_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# The tests.


def kill_after(processes, delay: float, target, warehouse: Warehouse, version: int) -> int:
    """Kill a process so long after its first write; the last version of which it said that it is written."""
    ours, theirs = processes.Pipe(duplex=False)
    process = processes.Process(target=target, args=(paths(warehouse), version, theirs))
    process.start()
    theirs.close()
    last = ours.recv()
    time.sleep(delay)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with contextlib.suppress(EOFError):
        while True:
            last = ours.recv()
    return last


def seconds_of(action) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


@pytest.mark.slow
def test_killed_at_random_moments_a_partition_is_the_old_one_or_the_new_one(warehouse, processes):
    def write(version):
        with warehouse.get_connection() as connection:
            write_version(connection, version)

    write(0)
    duration = seconds_of(lambda: write(1))
    moments = random.Random(1)
    for kill in range(25):
        written = kill_after(processes, moments.uniform(0, 2 * duration), write_on_and_on, warehouse, 1000 * (kill + 1))
        # What was committed stays; the write that was under way is there or not.
        assert check_warehouse(warehouse) in (written, written + 1)
        write(1)
    assert check_warehouse(warehouse) == 1


def test_killed_between_any_two_statements_a_partition_is_the_old_one_or_the_new_one(warehouse, processes):
    def write_killed_at(statement: int, version: int) -> bool:
        process = processes.Process(target=write_until_statement, args=(paths(warehouse), version, statement))
        process.start()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        return process.exitcode != 0

    # The first write of all makes all tables.
    for statement in (0, 1, 2, 10, 40):
        assert write_killed_at(statement, 1)
        assert check_warehouse(warehouse) is None
    with warehouse.get_connection() as connection:
        write_version(connection, 1)
    statement, outcomes = 0, []
    while write_killed_at(statement, 2 + statement):
        outcomes.append(check_warehouse(warehouse))
        statement += 1
    assert outcomes == [1] * statement
    assert check_warehouse(warehouse) == 2 + statement
    assert statement > 8


@pytest.mark.slow
def test_killed_at_random_moments_a_publication_is_the_old_one_or_the_new_one(warehouse, processes):
    write_and_publish(warehouse, 0)
    duration = seconds_of(lambda: write_and_publish(warehouse, 1))
    moments = random.Random(2)
    for kill in range(10):
        done = kill_after(processes, moments.uniform(0, 2 * duration), publish_on_and_on, warehouse, 1000 * (kill + 1))
        assert done <= published_version(warehouse) <= check_warehouse(warehouse) <= done + 1
        write_and_publish(warehouse, 1)
        assert published_version(warehouse) == 1


@pytest.mark.parametrize(
    "moment",
    ["before copyfileobj", "half copyfileobj", "before fsync", "after chmod", "after unlink", "before replace"],
)
def test_killed_in_the_steps_of_a_publication_the_old_copy_stays(warehouse, processes, moment):
    write_and_publish(warehouse, 1)
    with warehouse.get_connection() as connection:
        write_version(connection, 2)
        record_status(connection, TABLE.key, writing_times(connection, TABLE.key, DAYS), failed=[])
    process = processes.Process(target=publish_until, args=(paths(warehouse), moment))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert published_version(warehouse) == 1
    publish(warehouse, ledger_of="operations.publications")
    assert published_version(warehouse) == 2
    assert os.listdir(Path(warehouse.published).parent) == ["pinnersage.duckdb"]


def published_version(warehouse: Warehouse) -> int:
    assert Path(warehouse.published).stat().st_mode & 0o777 == 0o444
    with duckdb.connect(warehouse.published, read_only=True) as connection:
        return state(connection)


def commit_and_be_killed(places: dict[str, str], version: int) -> None:
    with Warehouse(**places).get_connection() as connection:
        write_version(connection, version)
        record_status(connection, TABLE.key, writing_times(connection, TABLE.key, DAYS), failed=[])
        _kill_this_process()


def test_what_a_killed_run_had_committed_is_published(warehouse, processes):
    """It is only in the write-ahead log then, and the copy is made without one."""
    process = processes.Process(target=commit_and_be_killed, args=(paths(warehouse), 1))
    process.start()
    process.join()
    assert Path(warehouse.database + ".wal").stat().st_size > 0
    publish(warehouse, ledger_of="operations.publications")
    assert published_version(warehouse) == 1
