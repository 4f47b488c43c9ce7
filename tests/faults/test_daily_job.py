"""Faults of the daily job, as they come: killed in every stage, full disks, two runs at once, files in other hands.

After each: no row is lost or there twice, a run that is made again has the rows of one that nothing disturbed, and
whoever reads the message knows what to do.
"""

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import duckdb
import pytest
from world import START, World, differences, on, small_settings

from pinnersage_assets.backfill import BackfillError
from pinnersage_assets.sources.simulated import SimulatedSource
from pinnersage_assets.warehouse import partitions
from pinnersage_assets.warehouse.tables import all_tables

pytestmark = pytest.mark.slow

DAYS, LAST = 3, on(2)
SETTINGS = {"window": {"days": 2}, "simulation": {"users": 30, "pins": 300}, "index": {"exact_up_to": 0}}
# A server that has imported what tests need, forked for each process.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["pytest", "pinnersage_assets.definitions"])


def landed(data, days=DAYS):
    world = World.new(data, small_settings(**SETTINGS), kind="landing")
    source = SimulatedSource(world.settings.simulation, world.settings.seed, START)
    for day in map(on, range(days)):
        for table in ("actions", "impressions", "pins"):
            world.land(table, day, getattr(source, table)(day))
    return world


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Read-only: copy it to change it."""
    world = landed(tmp_path_factory.mktemp("undisturbed") / "data")
    world.backfill(LAST, LAST)
    return world


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """The same before the last day; read-only."""
    world = landed(tmp_path_factory.mktemp("before") / "data")
    for planned in world.backfilling(LAST, LAST):
        if planned.job == "daily":
            break
    return world


def rows_of(world, days=DAYS):
    return {(day, table): frame for day in map(on, range(days)) for table, frame in world.partitions(day).items()}


def is_whole(world, undisturbed):
    assert differences(rows_of(undisturbed), rows_of(world)) == []
    assert {world.status(table, LAST) for table in all_tables() if table != "operations.partitions"} == {"passed"}
    with duckdb.connect(world.warehouse.published, read_only=True) as published:
        [(last,)] = published.execute("SELECT max(dt) FROM retrieval.recommendations").fetchall()
    assert last == LAST
    assert list((world.data / "warehouse" / "scratch").iterdir()) == []


# --- Killed


def dies_at(data, table, committed):
    """Run the last day's job, and be killed as the rows of a table are written: before they are committed, or after."""
    writes = partitions.replace_partitions

    def write(connection, written, *arguments, **options):
        if written.key == table and not committed:
            connection.execute("BEGIN")
            connection.execute("CREATE TABLE operations.half_written AS SELECT 1 AS x")
            os.kill(os.getpid(), signal.SIGKILL)
        found = writes(connection, written, *arguments, **options)
        if written.key == table:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    partitions.replace_partitions = write
    run_to_the_end(data)


def run_to_the_end(data, first=LAST, last=LAST):
    world = World.new(data, small_settings(**SETTINGS), kind="landing")
    world.backfill(first, last)


def in_a_process(function, *arguments, seconds=None):
    """Run a function in a process of its own, killed after some time; how it ended."""
    process = PROCESSES.Process(target=function, args=arguments)
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode


def test_killed_in_every_stage_the_job_ends_with_the_rows_of_one_that_nothing_disturbed(before, undisturbed, tmp_path):
    world = before.copy(tmp_path / "data")
    stages = [table for table in all_tables() if table != "operations.partitions"]
    for number, table in enumerate(stages):
        assert in_a_process(dies_at, world.data, table, number % 2 == 0) == -signal.SIGKILL, table
        # What was published is whole, or is not there yet.
        if Path(world.warehouse.published).exists():
            with duckdb.connect(world.warehouse.published, read_only=True) as published:
                assert published.execute("SELECT count(*) FROM operations.partitions").fetchall()
    assert in_a_process(run_to_the_end, world.data) == 0
    # What processes leave that had no time to clean up goes after a week.
    shutil.rmtree(world.data / "warehouse" / "scratch")
    (world.data / "warehouse" / "scratch").mkdir()
    is_whole(world, undisturbed)


def test_a_backfill_of_thirty_days_killed_again_and_again_ends_like_one_that_was_not(tmp_path):
    days = 30
    expected = landed(tmp_path / "expected", days)
    assert in_a_process(run_to_the_end, expected.data, on(1), on(days - 1)) == 0
    world = landed(tmp_path / "data", days)
    chance = random.Random(0)
    deaths = 0
    while in_a_process(run_to_the_end, world.data, on(1), on(days - 1), seconds=chance.uniform(20, 90)) != 0:
        deaths += 1
        assert deaths < 60, "it gets nowhere"
    assert deaths >= 3
    assert differences(rows_of(expected, days), rows_of(world, days)) == []


# --- Full disks


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, and what fills and empties it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"only root may mount a small disk: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder, but=0):
    """Leave no more than some bytes."""
    free = shutil.disk_usage(folder).free
    with (folder / "ballast").open("wb") as ballast:
        os.posix_fallocate(ballast.fileno(), 0, max(free - but, 1))


@pytest.mark.parametrize(
    ("full_in", "left", "message"),
    [
        # While a table is written ...
        ("pinnersage_assets.warehouse.partitions.replace_partitions", 0, r"[Nn]o space left|could not write|full"),
        # ... a copy is published ...
        ("pinnersage_assets.lineage.operations.publish", 100_000, r"[Nn]o space left|could not write|full"),
        # ... and an index is saved.
        ("pinnersage_assets.ann.hnsw.save", 0, r"[Nn]o space left|could not write|full"),
    ],
)
def test_on_a_full_disk_the_run_fails_and_what_was_there_stays(
    before, undisturbed, small_disk, monkeypatch, full_in, left, message
):
    world = before.copy(small_disk / "data")
    module, name = full_in.rsplit(".", 1)
    import importlib

    real = getattr(importlib.import_module(module), name)
    filled = []

    def on_a_full_disk(*arguments, **options):
        if not filled:
            fill(small_disk, left)
            filled.append(True)
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(full_in, on_a_full_disk)
        with pytest.raises(BackfillError, match=message) as raised:
            world.backfill(LAST, LAST)
    assert filled
    assert "call again" in str(raised.value)
    assert not Path(world.warehouse.published).exists()
    (small_disk / "ballast").unlink()
    world.backfill(LAST, LAST)
    is_whole(world, undisturbed)


# --- Two at once


def test_two_runs_of_a_day_at_once_leave_the_rows_of_one(before, undisturbed, tmp_path):
    world = before.copy(tmp_path / "data")
    both = [PROCESSES.Process(target=run_to_the_end, args=(world.data,)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    # One of them may find that the other has not checked yet what it wrote, and does not publish that.
    assert 0 in {process.exitcode for process in both}
    world.backfill(LAST, LAST)
    is_whole(world, undisturbed)


# --- Files in other hands


def reads(path, ready, done):
    with duckdb.connect(path, read_only=True) as published:
        before = published.execute("SELECT count(*), sum(hash(r)) FROM retrieval.recommendations AS r").fetchall()
        ready.set()
        done.wait()
        assert (
            published.execute("SELECT count(*), sum(hash(r)) FROM retrieval.recommendations AS r").fetchall() == before
        )


def test_who_reads_the_published_copy_throughout_reads_one_state_of_it(undisturbed, tmp_path):
    world = undisturbed.copy(tmp_path / "data")
    ready, done = PROCESSES.Event(), PROCESSES.Event()
    reader = PROCESSES.Process(target=reads, args=(world.warehouse.published, ready, done))
    reader.start()
    assert ready.wait(60)
    world.backfill(LAST, LAST, again=True)
    done.set()
    reader.join()
    assert reader.exitcode == 0
    is_whole(world, undisturbed)


def writes(path, ready, done):
    os.chmod(path, 0o644)
    with duckdb.connect(path) as published:
        published.execute("CREATE TABLE mine AS SELECT 1 AS x")
        ready.set()
        done.wait()


def test_who_writes_the_published_copy_by_mistake_loses_what_was_written_and_nobody_else_anything(
    undisturbed, tmp_path
):
    world = undisturbed.copy(tmp_path / "data")
    ready, done = PROCESSES.Event(), PROCESSES.Event()
    writer = PROCESSES.Process(target=writes, args=(world.warehouse.published, ready, done))
    writer.start()
    assert ready.wait(60)
    world.backfill(LAST, LAST, again=True)
    done.set()
    writer.join()
    is_whole(world, undisturbed)
    with duckdb.connect(world.warehouse.published, read_only=True) as published:
        assert published.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'mine'").fetchall() == [(0,)]


def holds(path, ready):
    connection = duckdb.connect(path)
    connection.execute("BEGIN")
    connection.execute("CREATE TABLE operations.half AS SELECT 1 AS x")
    ready.set()
    time.sleep(600)


def test_the_lock_of_a_process_that_died_is_none(before, undisturbed, tmp_path):
    world = before.copy(tmp_path / "data")
    ready = PROCESSES.Event()
    holder = PROCESSES.Process(target=holds, args=(world.warehouse.database, ready))
    holder.start()
    assert ready.wait(60)
    holder.kill()
    holder.join()
    world.backfill(LAST, LAST)
    is_whole(world, undisturbed)


def test_the_lock_of_a_process_that_lives_is_told_with_its_number(before, tmp_path):
    world = before.copy(tmp_path / "data")
    ready = PROCESSES.Event()
    holder = PROCESSES.Process(target=holds, args=(world.warehouse.database, ready))
    holder.start()
    assert ready.wait(60)
    impatient = world.warehouse.model_copy(update={"lock_timeout_seconds": 0.5})
    with pytest.raises(RuntimeError, match=rf"PID {holder.pid}.*Close it there"):
        impatient.read("SELECT 1")
    holder.kill()
    holder.join()


def test_a_clock_that_jumps_back_changes_no_row(before, undisturbed, tmp_path):
    """By the clock of the run, all that is there was written tomorrow."""
    world = before.copy(tmp_path / "data")
    world.execute("UPDATE operations.partitions SET written_at = written_at + INTERVAL 1 DAY")
    world.backfill(LAST, LAST)
    is_whole(world, undisturbed)
    assert world.partition("operations.stale_partitions", LAST).is_empty()
