import datetime
import multiprocessing
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import polars as pl
import pytest

from pinnersage_assets.warehouse import database
from pinnersage_assets.warehouse.database import Warehouse, WarehouseLockedError
from pinnersage_assets.warehouse.ledger import has_ledger

DAY = datetime.date(2026, 3, 1)


def hold(database: str, read_only: bool, pipe) -> None:
    """In another process: keep a file open until told to leave."""
    with duckdb.connect(database, read_only=read_only):
        pipe.send("open")
        pipe.recv()


@pytest.fixture
def holder(processes):
    """Starts a process that keeps a file open; gives the process and how to make it leave."""
    started = []

    def holder(database: str, read_only: bool):
        ours, theirs = processes.Pipe()
        process = processes.Process(target=hold, args=(database, read_only, theirs))
        process.start()
        theirs.close()
        started.append(process)
        assert ours.recv() == "open"
        return process, lambda: ours.send("leave")

    yield holder
    for process in started:
        process.kill()
        process.join()


def with_timeout(warehouse: Warehouse, seconds: float) -> Warehouse:
    return Warehouse(database=warehouse.database, published=warehouse.published, lock_timeout_seconds=seconds)


@pytest.mark.parametrize("read_only", [True, False], ids=["reader", "writer"])
def test_a_writer_waits_for_another_process_and_goes_on_when_it_leaves(
    warehouse, write, impressions, holder, read_only
):
    write("raw.impressions", DAY, impressions(1))
    _, leave = holder(warehouse.database, read_only)
    writer = threading.Thread(target=write, args=("raw.impressions", DAY, impressions(2)))
    writer.start()
    writer.join(timeout=0.3)
    assert writer.is_alive()
    leave()
    writer.join()
    assert warehouse.read("SELECT pin_id FROM raw.impressions").item() == 2


def test_readers_share_the_file(warehouse, write, impressions, holder):
    write("raw.impressions", DAY, impressions(1))
    holder(warehouse.database, True)
    with warehouse.get_reader() as one, warehouse.get_reader() as other:
        assert one.sql("SELECT pin_id FROM raw.impressions").fetchall() == [(1,)]
        assert other.sql("SELECT pin_id FROM raw.impressions").fetchall() == [(1,)]


@pytest.mark.parametrize("read_only", [True, False], ids=["reader", "writer"])
def test_a_lock_that_stays_is_told_with_its_holder_and_the_copy(warehouse, write, impressions, holder, read_only):
    write("raw.impressions", DAY, impressions(1))
    process, _ = holder(warehouse.database, read_only)
    with pytest.raises(WarehouseLockedError) as error, with_timeout(warehouse, 0.2).get_connection():
        pass
    for part in (warehouse.database, f"(PID {process.pid})", warehouse.published):
        assert part in str(error.value)


def test_a_reader_waits_for_a_writer_too(warehouse, write, impressions, holder):
    write("raw.impressions", DAY, impressions(1))
    process, leave = holder(warehouse.database, False)
    with pytest.raises(WarehouseLockedError, match=rf"PID {process.pid}"):
        with_timeout(warehouse, 0.2).read("FROM raw.impressions")
    leave()
    assert len(warehouse.read("FROM raw.impressions")) == 1


def test_before_the_first_write_a_reader_is_told_what_to_do(warehouse):
    with pytest.raises(FileNotFoundError, match=r"pinnersage.duckdb does not exist yet: materialise something"):
        warehouse.read("SELECT 1")


def test_what_is_no_database_is_told_at_once_also_where_its_path_says_lock(tmp_path):
    path = tmp_path / "lock" / "block.duckdb"
    path.parent.mkdir()
    path.write_bytes(b"something else" * 1000)
    with pytest.raises(duckdb.IOException, match="not a valid DuckDB database"):
        Warehouse(database=str(path), published="").read("SELECT 1")


def test_a_python_variable_is_not_a_table(warehouse, write, impressions):
    write("raw.impressions", DAY, impressions(1))
    pins = pl.DataFrame({"pin_id": [1]})
    with pytest.raises(duckdb.CatalogException, match="pins"):
        warehouse.read("FROM pins")
    with warehouse.get_connection() as connection, pytest.raises(duckdb.CatalogException, match="pins"):
        connection.sql("FROM pins")
    assert len(pins) == 1


def test_times_are_utc_whatever_the_machine_says(warehouse, write, impressions, monkeypatch):
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    write("raw.impressions", DAY, impressions(1))
    seconds = "SELECT abs(epoch(written_at) - epoch(now())) FROM operations.partitions"
    assert warehouse.read(seconds).item() < 3600


def test_a_readers_connection_cannot_write(warehouse, write, impressions):
    write("raw.impressions", DAY, impressions(1))
    with pytest.raises(duckdb.InvalidInputException, match="read-only"), warehouse.get_reader() as connection:
        connection.execute("DELETE FROM raw.impressions")


def test_connections_are_closed_also_after_an_error(warehouse, write, impressions):
    write("raw.impressions", DAY, impressions(1))
    for connect in (warehouse.get_connection, warehouse.get_reader):
        with pytest.raises(duckdb.Error), connect() as connection:
            connection.execute("FROM nowhere")
    # An open one in this process would refuse the other kind.
    write("raw.impressions", DAY, impressions(2))
    assert warehouse.read("SELECT pin_id FROM raw.impressions").item() == 2


def test_two_warehouses_of_a_process_know_nothing_of_each_other(warehouse, write, impressions, tmp_path):
    write("raw.impressions", DAY, impressions(1))
    other = Warehouse(database=str(tmp_path / "it's another" / "pinnersage.duckdb"), published="")
    with warehouse.get_reader() as one, other.get_connection() as connection:
        connection.execute("CREATE SCHEMA raw; CREATE TABLE raw.impressions AS SELECT 7 AS pin_id")
        assert not has_ledger(connection)
        assert one.sql("SELECT pin_id FROM raw.impressions").fetchall() == [(1,)]
        assert connection.sql("SELECT pin_id FROM raw.impressions").fetchall() == [(7,)]


def test_a_writer_waits_for_the_readers_of_its_own_process(warehouse, write, impressions):
    write("raw.impressions", DAY, impressions(1))
    with warehouse.get_reader() as reader:
        writer = threading.Thread(target=write, args=("raw.impressions", DAY, impressions(2)))
        writer.start()
        writer.join(timeout=0.3)
        assert writer.is_alive()
        assert reader.sql("SELECT pin_id FROM raw.impressions").fetchall() == [(1,)]
    writer.join()
    assert warehouse.read("SELECT pin_id FROM raw.impressions").item() == 2


def test_the_lock_is_let_go_of_with_the_last_connection(warehouse, write, impressions, holder):
    write("raw.impressions", DAY, impressions(1))
    with warehouse.get_reader(), warehouse.get_reader():
        pass
    assert not list(Path(warehouse.database).parent.glob("*.wal"))
    _, leave = holder(warehouse.database, False)
    leave()


def test_many_threads_read_and_write_one_after_another(warehouse, write, impressions):
    write("raw.impressions", DAY, impressions(0))

    def work(number: int) -> int:
        if number % 5 == 0:
            write("raw.impressions", DAY, impressions(number))
        return warehouse.read("SELECT count(*) FROM raw.impressions").item()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, range(60))) == {1}


def test_threads_that_come_first_at_once_share_an_instance(warehouse, write, impressions, monkeypatch):
    write("raw.impressions", DAY, impressions(1))
    for _ in range(5):
        monkeypatch.setattr(database, "_instances", {})
        begin = threading.Barrier(2)

        def work(begin: threading.Barrier = begin) -> None:
            begin.wait()
            with warehouse.get_connection():
                time.sleep(0.05)

        with ThreadPoolExecutor(2) as pool:
            for done in [pool.submit(work) for _ in range(2)]:
                done.result()


def count_in_a_fork(warehouse, pipe) -> None:
    pipe.send(warehouse.read("SELECT count(*) FROM raw.impressions").item())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_reads_with_an_instance_of_its_own(warehouse, write, impressions):
    write("raw.impressions", DAY, impressions(1, 2))
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe()
    process = fork.Process(target=count_in_a_fork, args=(warehouse, theirs))
    process.start()
    assert ours.poll(30)
    assert ours.recv() == 2
    process.join(30)
    assert process.exitcode == 0
