import datetime
import os
import signal
from pathlib import Path

import duckdb
import pytest

from pinnersage_assets.warehouse import publishing
from pinnersage_assets.warehouse.database import Warehouse, WarehouseLockedError
from pinnersage_assets.warehouse.publishing import NotPublishableError

DAYS = [datetime.date(2026, 3, day) for day in (1, 2)]
TABLE = "raw.impressions"


@pytest.fixture
def publish(warehouse):
    return lambda: publishing.publish(warehouse, ledger_of="operations.publications")


def pins(path: str) -> list[int]:
    with duckdb.connect(path, read_only=True) as connection:
        return [pin for (pin,) in connection.execute("SELECT pin_id FROM raw.impressions ORDER BY pin_id").fetchall()]


def files_beside(warehouse: Warehouse) -> list[str]:
    return sorted(os.listdir(Path(warehouse.published).parent))


def test_the_copy_holds_what_was_written_and_cannot_be_written(warehouse, write, impressions, publish):
    write(TABLE, DAYS[0], impressions(1, 2))
    publication = publish()
    path = Path(warehouse.published)
    assert pins(warehouse.published) == [1, 2]
    assert path.stat().st_mode & 0o777 == 0o444
    assert publication.bytes == path.stat().st_size
    assert publication.tables == warehouse.read("SELECT count(*) FROM duckdb_tables()").item()
    write(TABLE, DAYS[0], impressions(3))
    assert pins(warehouse.published) == [1, 2]
    publish()
    assert pins(warehouse.published) == [3]
    assert files_beside(warehouse) == ["pinnersage.duckdb"]


@pytest.mark.parametrize(("status", "word"), [("failed", "failed"), (None, "unchecked")])
def test_what_is_not_good_is_not_published_and_is_named(warehouse, write, impressions, publish, status, word):
    write(TABLE, DAYS[0], impressions(1))
    publish()
    before = Path(warehouse.published).read_bytes()
    write(TABLE, DAYS[1], impressions(2), status=status)
    with pytest.raises(NotPublishableError, match=rf"raw\.impressions 2026-03-02 \({word}\)") as error:
        publish()
    assert "2026-03-01" not in str(error.value)
    assert Path(warehouse.published).read_bytes() == before
    write(TABLE, DAYS[1], impressions(3))
    publish()
    assert pins(warehouse.published) == [1, 3]


def test_many_bad_partitions_are_counted(write, impressions, publish):
    days = [datetime.date(2026, 3, day) for day in range(1, 15)]
    write(TABLE, days, impressions(1, dt=days[0]), status="failed")
    with pytest.raises(NotPublishableError, match=r"2026-03-10 \(failed\) and 4 more"):
        publish()


def test_before_the_first_write_there_is_nothing_to_publish(warehouse, publish):
    with pytest.raises(FileNotFoundError, match="materialise something first"):
        publish()
    with warehouse.get_connection():
        pass
    with pytest.raises(NotPublishableError, match="nothing has been written"):
        publish()
    assert not Path(warehouse.published).exists()


def write_and_be_killed(path: str) -> None:
    """In another process: what somebody does who opens the copy with the wrong client, as a user who may."""
    os.chmod(path, 0o644)
    connection = duckdb.connect(path)
    connection.execute("CREATE TABLE notes AS SELECT range AS note FROM range(1000)")
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_foreign_write_ahead_log_beside_the_copy_does_no_harm(warehouse, write, impressions, publish, processes):
    write(TABLE, DAYS[0], impressions(1))
    publish()
    process = processes.Process(target=write_and_be_killed, args=(warehouse.published,))
    process.start()
    process.join()
    assert files_beside(warehouse) == ["pinnersage.duckdb", "pinnersage.duckdb.wal"]
    write(TABLE, DAYS[0], impressions(2))
    publish()
    assert files_beside(warehouse) == ["pinnersage.duckdb"]
    assert pins(warehouse.published) == [2]


def read_when_told(path: str, pipe) -> None:
    """In another process: a reader who keeps the copy open."""
    with duckdb.connect(path, read_only=True) as connection:
        pipe.send("open")
        while pipe.recv() == "read":
            pipe.send(connection.execute("SELECT pin_id FROM raw.impressions").fetchall())


def test_a_reader_keeps_the_copy_it_opened_and_blocks_nobody(warehouse, write, impressions, publish, processes):
    write(TABLE, DAYS[0], impressions(1))
    publish()
    ours, theirs = processes.Pipe()
    reader = processes.Process(target=read_when_told, args=(warehouse.published, theirs))
    reader.start()
    theirs.close()
    assert ours.recv() == "open"
    for pin in (2, 3):
        write(TABLE, DAYS[0], impressions(pin))
        publish()
        ours.send("read")
        assert ours.recv() == [(1,)]
        assert pins(warehouse.published) == [pin]
    ours.send("leave")
    reader.join()
    assert reader.exitcode == 0


@pytest.mark.parametrize("step", ["shutil.copyfileobj", "os.fsync", "os.replace"])
def test_when_copying_fails_the_old_copy_stays_and_nothing_is_left(
    warehouse, write, impressions, publish, monkeypatch, step
):
    write(TABLE, DAYS[0], impressions(1))
    publish()
    write(TABLE, DAYS[0], impressions(2))

    def fails(*arguments, **options):
        raise OSError("disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(step, fails)
        with pytest.raises(OSError, match="disk is full"):
            publish()
    assert pins(warehouse.published) == [1]
    assert files_beside(warehouse) == ["pinnersage.duckdb"]
    publish()
    assert pins(warehouse.published) == [2]


def try_to_write(places: dict[str, str], pipe) -> None:
    try:
        with Warehouse(**places, lock_timeout_seconds=0).get_connection():
            pipe.send("opened")
    except WarehouseLockedError as error:
        pipe.send(str(error))


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_nobody_writes_until_the_copy_has_its_name(
    warehouse, write, impressions, publish, processes, monkeypatch, moment
):
    """Closing any descriptor of a file gives up the process's lock on it: the copy must not close the original."""
    write(TABLE, DAYS[0], impressions(1))
    answers = []
    real = getattr(os, moment)

    def while_publishing(*arguments):
        ours, theirs = processes.Pipe(duplex=False)
        places = {"database": warehouse.database, "published": warehouse.published}
        process = processes.Process(target=try_to_write, args=(places, theirs))
        process.start()
        theirs.close()
        answers.append(ours.recv())
        process.join()
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, moment, while_publishing)
        publish()
    assert f"PID {os.getpid()}" in answers[0]
    assert pins(warehouse.published) == [1]
