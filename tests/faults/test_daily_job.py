"""Faults of the daily job, as they come: full disks, two runs at once, files in other hands, a clock that jumps back.

After each: no row is lost or there twice, a run that is made again has the rows of one that nothing disturbed, and
whoever reads the message knows what to do.
"""

import contextlib
import datetime
import os
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import polars as pl
import pytest
from faulty import KILLED, LAST, PROCESSES, SmallWorld, is_whole
from world import START

from pinnersage_assets.backfill import BackfillError, backfill_stale
from pinnersage_assets.lineage.stale_partitions import find_stale
from pinnersage_assets.warehouse.database import WarehouseLockedError
from pinnersage_assets.warehouse.partitions import PartitionIOManager

slow = pytest.mark.slow


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    """A world before the last day, and after it; read-only: copy them to change them."""
    world = SmallWorld.landed(tmp_path_factory.mktemp("states") / "data")
    for planned in world.backfilling(LAST, LAST):
        if planned.job == "daily":
            before = world.copy(world.data.with_name("before"))
    return before, world


@pytest.fixture(scope="module")
def before(states):
    return states[0]


@pytest.fixture(scope="module")
def undisturbed(states):
    return states[1]


def stale(world):
    """By day the tables that are not made from what is there now."""
    found = {}
    with world.warehouse.get_reader() as connection:
        rows = find_stale(
            connection, world.defs.resolve_all_asset_specs(), world.resources["source"], world.settings
        ).select("stale_dt", "table_name")
    for day, table in rows.iter_rows():
        found.setdefault(day, set()).add(table)
    return found


@contextlib.contextmanager
def beside(function, *arguments):
    """A process beside the test, which says when it is ready and is told when it is done."""
    ready, done = PROCESSES.Event(), PROCESSES.Event()
    process = PROCESSES.Process(target=function, args=(*arguments, ready, done), daemon=True)
    process.start()
    try:
        assert ready.wait(120)
        yield process
        done.set()
        process.join(120)
    finally:
        process.kill()
        process.join()


# --- Full disks


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", str(folder)]
    try:
        refused = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("a small disk is mounted with `mount`, which is not here")
    if refused.returncode:
        pytest.skip(f"only root may mount a small disk: {refused.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder):
    """Leave nothing."""
    with (folder / "ballast").open("wb") as ballast:
        os.posix_fallocate(ballast.fileno(), 0, shutil.disk_usage(folder).free)


@slow
@pytest.mark.parametrize(
    "full_at",
    [
        # A table's rows; the copy that people query; the file of an index; the vectors of pins; a computation's files.
        "pinnersage_assets.warehouse.partitions.replace_partitions",
        "pinnersage_assets.lineage.operations.publish",
        "pinnersage_assets.ann.hnsw.save",
        "pinnersage_assets.warehouse.pin_vectors._brought_up_to_date",
        "pinnersage_assets.warehouse.partitions._new_folder",
    ],
)
def test_on_a_full_disk_the_run_fails_and_goes_on_once_there_is_room(
    before, undisturbed, small_disk, monkeypatch, full_at
):
    world = before.copy(small_disk / "data")
    module, _, name = full_at.rpartition(".")
    real = getattr(__import__(module, fromlist=[name]), name)
    with monkeypatch.context() as patch:

        def on_a_full_disk(*arguments, **options):
            if not (small_disk / "ballast").exists():
                fill(small_disk)
            return real(*arguments, **options)

        patch.setattr(full_at, on_a_full_disk)
        with pytest.raises(BackfillError) as raised:
            world.backfill(LAST, LAST)
    assert f"where {world.data} is. Make room" in str(raised.value)
    assert "call again" in str(raised.value)
    assert not Path(world.warehouse.published).exists()
    (small_disk / "ballast").unlink()
    world.backfill(LAST, LAST)
    is_whole(world, undisturbed)


# --- Two at once


def make_what_is_stale(world):
    """What a run may not have read as the other one wrote it is told as stale; this is `make backfill STALE=1`."""
    runs = list(backfill_stale(world.defs, world.warehouse, world.instance, lambda: stale(world)))
    assert all(run.first == run.last == LAST for run in runs)
    assert stale(world) == {}


def runs_at_once(data, messages, turn):
    turn.wait(120)
    try:
        SmallWorld.opened(data).backfill(LAST, LAST)
    except BackfillError as error:
        messages.put(str(error))
        raise


@slow
def test_two_runs_of_a_day_at_once_leave_the_rows_of_one(before, undisturbed, tmp_path):
    world = before.copy(tmp_path / "data")
    messages, turn = PROCESSES.Queue(), PROCESSES.Barrier(2)
    both = [PROCESSES.Process(target=runs_at_once, args=(world.data, messages, turn), daemon=True) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    told = [messages.get(timeout=10) for process in both if process.exitcode]
    # One may find that the other has not checked yet what it has just written.
    assert all("If another run is making these days, let it end" in message for message in told), told
    world.backfill(LAST, LAST)
    make_what_is_stale(world)
    is_whole(world, undisturbed)


def written_as_well(table, and_then):
    """In this process: once a table's rows are committed, and before they are checked, something else happens."""
    handle_output = PartitionIOManager.handle_output

    def handle(manager, context, rows):
        handle_output(manager, context, rows)
        if context.asset_key.path == table.split("."):
            and_then()

    return handle


def overtakes(data, ready, done):
    """Write the users' clusters anew, and check them only once the other run has ended."""

    def wait():
        ready.set()
        done.wait()

    PartitionIOManager.handle_output = written_as_well("users.clusters", wait)
    SmallWorld.opened(data).backfill(LAST, LAST)


@slow
def test_a_run_that_meets_another_one_of_its_day_says_so(before, undisturbed, tmp_path, monkeypatch):
    world = before.copy(tmp_path / "data")
    met = []
    with contextlib.ExitStack() as stack:

        def meet():
            met.append(stack.enter_context(beside(overtakes, world.data)))

        monkeypatch.setattr(PartitionIOManager, "handle_output", written_as_well("users.medoids", meet))
        with pytest.raises(BackfillError, match=r"check inputs_are_complete of users\.medoids: .*let it end"):
            world.backfill(LAST, LAST)
    monkeypatch.undo()
    assert [other.exitcode for other in met] == [0]
    assert world.backfill(LAST, LAST) == []
    make_what_is_stale(world)
    is_whole(world, undisturbed)


# --- Files in other hands


def reads(path, ready, done):
    query = "SELECT count(*), sum(hash(r)) FROM retrieval.recommendations AS r"
    with duckdb.connect(path, read_only=True) as published:
        before = published.execute(query).fetchall()
        ready.set()
        done.wait()
        after = published.execute(query).fetchall()
    with duckdb.connect(path, read_only=True) as published:
        anew = published.execute(query).fetchall()
    if after != before or anew == before:
        raise SystemExit(1)


@slow
def test_who_reads_the_published_copy_throughout_reads_one_state_of_it(undisturbed, tmp_path):
    world = undisturbed.copy(tmp_path / "data")
    # So that the run which comes publishes other rows.
    with writable_copy(world) as published:
        published.execute("DELETE FROM retrieval.recommendations WHERE rank = 1")
    with beside(reads, world.warehouse.published) as reader:
        world.backfill(LAST, LAST, again=True)
    assert reader.exitcode == 0
    is_whole(world, undisturbed)


@contextlib.contextmanager
def writable_copy(world):
    os.chmod(world.warehouse.published, 0o644)
    with duckdb.connect(world.warehouse.published) as published:
        yield published
    os.chmod(world.warehouse.published, 0o444)


def writes(path, ready, done):
    os.chmod(path, 0o644)
    with duckdb.connect(path) as published:
        # So that what is written stays in a log of its own beside the copy.
        published.execute("PRAGMA disable_checkpoint_on_shutdown")
        published.execute("CREATE TABLE mine AS SELECT 1 AS x")
        ready.set()
        done.wait()
        published.execute("INSERT INTO mine VALUES (2)")


@slow
def test_who_writes_the_published_copy_by_mistake_loses_that_and_nobody_else_anything(undisturbed, tmp_path):
    world = undisturbed.copy(tmp_path / "data")
    with beside(writes, world.warehouse.published):
        assert Path(world.warehouse.published + ".wal").exists()
        world.backfill(LAST, LAST, again=True)
    is_whole(world, undisturbed)
    with duckdb.connect(world.warehouse.published, read_only=True) as published:
        assert published.execute("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'mine'").fetchall() == [(0,)]


# By itself a second process is there at once.
HOLDS = """
import sys, time, duckdb
connection = duckdb.connect(sys.argv[1])
connection.execute("BEGIN")
connection.execute("CREATE TABLE operations.half AS SELECT 1 AS x")
print("ready", flush=True)
time.sleep(600)
"""


def test_the_lock_of_a_process_that_died_is_none_and_that_of_one_that_lives_is_told_with_its_number(tmp_path):
    world = SmallWorld.landed(tmp_path / "data", 1)
    assert world.run("raw_and_staging", START).success
    rows = world.rows(1)
    impatient = world.warehouse.model_copy(update={"lock_timeout_seconds": 0.5})
    command = [sys.executable, "-c", HOLDS, world.warehouse.database]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "ready\n"
            with pytest.raises(WarehouseLockedError, match=rf"PID {holder.pid}\).*Close it there"):
                impatient.read("SELECT 1")
        finally:
            holder.kill()
    assert holder.returncode == KILLED
    half = impatient.read("SELECT count(*) FROM duckdb_tables() WHERE table_name = 'half'").item()
    assert half == 0
    assert world.run("raw_and_staging", START).success
    there = world.rows(1)
    assert [key for key in rows if not rows[key].equals(there[key])] == []
    assert not there[START, "staging.actions"].is_empty()


# --- Clocks


def as_if_written_later(world, later):
    """By the clock of who comes now, all that is there was written so much later: it has jumped back."""
    seconds = later.total_seconds()
    world.execute("UPDATE operations.partitions SET written_at = written_at + $later", later=later)
    # This says of each partition when it was written: it would have had the same clock.
    [contents] = world.data.glob("vectors/contents.json")
    written = world.read("SELECT run_id, written_at FROM operations.partitions WHERE table_name = 'staging.pins'")
    text = contents.read_text()
    for run_id, written_at in written.iter_rows():
        text = text.replace(f"{run_id} {written_at - later}", f"{run_id} {written_at}")
    contents.write_text(text)
    # What came in was written by others.
    for path in set(world.data.rglob("*")) - set(world.landing.rglob("*")):
        status = path.stat()
        os.utime(path, (status.st_atime + seconds, status.st_mtime + seconds))


@slow
def test_a_clock_that_jumps_back_changes_no_row(before, undisturbed, tmp_path):
    world = before.copy(tmp_path / "data")
    as_if_written_later(world, datetime.timedelta(days=30))
    world.backfill(LAST, LAST)
    is_whole(world, undisturbed)
    assert stale(world) == {}


@slow
def test_what_came_late_is_made_by_a_run_whose_clock_jumped_back_as_by_any_other(undisturbed, tmp_path):
    """All of the day's partitions are replaced by such that were written before them, if you believe the clock."""
    worlds = [undisturbed.copy(tmp_path / name) for name in ("data", "expected")]
    as_if_written_later(worlds[0], datetime.timedelta(days=30))
    for world in worlds:
        folder = world.landing / "pins" / f"dt={LAST}"
        pin = pl.read_parquet(folder / "part-0.parquet").head(1)
        pin.with_columns(pin_id=pl.lit(10**6, pl.Int64)).write_parquet(folder / "part-late.parquet")
        assert LAST in stale(world)
        world.backfill(LAST, LAST, again=True)
        assert stale(world) == {}
        assert world.read("SELECT count(*) FROM staging.pins WHERE pin_id = 1000000").item() == 1
    is_whole(*worlds)
    assert not worlds[0].partition("staging.pins", LAST).equals(undisturbed.partition("staging.pins", LAST))
