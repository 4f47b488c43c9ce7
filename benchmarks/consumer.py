"""Events a second through the consumer: from files and from a Redis Stream, into LMDB and into Redis; beside SQLite.

Run ``python benchmarks/consumer.py``. Events are of one day, of 50,000 users, in any order; each is parsed, checked
against the ids that have come before, and committed durably with the position of the stream. SQLite does the same in
one transaction a batch (write-ahead log, synced at every commit). "One at a time" is a transaction an event. Redis is
measured where there is a redis-server, with an append-only file that is synced every second.
"""

import contextlib
import datetime
import logging
import random
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pinnersage_assets.serving.consumer as module
from pinnersage_assets.serving.consumer import Consumer
from pinnersage_assets.serving.events import Event, parse, to_json
from pinnersage_assets.serving.store import StoreError, open_store
from pinnersage_assets.serving.stream import open_stream
from pinnersage_assets.settings import ServingSettings

EVENTS = 500_000
USERS = 50_000
BATCH = 5000
DAY = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
NOW = DAY + datetime.timedelta(hours=23, minutes=59, seconds=59)


def main(events: int = EVENTS) -> None:
    """Print events a second, and ratios to files and LMDB."""
    logging.disable(logging.WARNING)
    lines = [to_json(event) for event in made_up(events)]
    few = lines[: max(1, events // 100)]
    first = show("files, LMDB", events, consume(lines, "lmdb", "files"))
    show("files, LMDB, one at a time", len(few), consume(few, "lmdb", "files", batch=1), first)
    show("files, SQLite", events, consume_with_sqlite(lines), first)
    show("parsing alone", events, parse_alone(lines), first)
    with redis_server() as address:
        if address:
            show("files, Redis", events, consume(lines, address, "files"), first)
            show("Redis Stream, Redis", events, consume(lines, address, "redis"), first)


def made_up(events: int) -> Iterator[Event]:
    """Events of the day."""
    rng = random.Random(1)
    for number in range(events):
        time_of = DAY + datetime.timedelta(microseconds=rng.randrange(86_300_000_000))
        event_id = f"{rng.getrandbits(64):016x}-{number}"
        yield Event(event_id, rng.randrange(USERS), rng.randrange(10**6), "repin", time_of)


def consume(lines: list[bytes], address: str, kind: str, batch: int = BATCH) -> float:
    """Seconds that a consumer takes for lines that are there already."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = open_store(address, folder / "serving")
        if address != "lmdb":
            store.client.flushall()
        stream = open_stream(ServingSettings(store=address, stream=kind), store, folder / "serving")
        for first in range(0, len(lines), BATCH):
            stream.send(lines[first : first + BATCH])
        consumer = Consumer(store, stream, folder, 5, 7, lambda: NOW)
        consumer.resume()
        module._BATCH, usual = batch, module._BATCH
        started = time.perf_counter()
        while consumer.step(0):
            pass
        seconds = time.perf_counter() - started
        module._BATCH = usual
        assert consumer.counts.new == len(lines), consumer.counts
        store.close()
    return seconds


def consume_with_sqlite(lines: list[bytes]) -> float:
    """Seconds for the same tables in SQLite."""
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.closing(sqlite3.connect(f"{folder}/events.db")) as database,
    ):
        database.executescript(
            """
            PRAGMA journal_mode = wal;
            PRAGMA synchronous = full;
            CREATE TABLE ids (id TEXT PRIMARY KEY, user INTEGER, pin INTEGER, action TEXT, time INTEGER) WITHOUT ROWID;
            CREATE TABLE events (user INTEGER, time INTEGER, id TEXT, pin INTEGER, action TEXT,
                PRIMARY KEY (user, time, id)) WITHOUT ROWID;
            CREATE TABLE waiting (time INTEGER, id TEXT, PRIMARY KEY (time, id)) WITHOUT ROWID;
            CREATE TABLE position (file TEXT PRIMARY KEY, byte INTEGER);
            """
        )
        started, byte = time.perf_counter(), 0
        for first in range(0, len(lines), BATCH):
            rows = []
            for line in lines[first : first + BATCH]:
                event = parse(line, NOW)
                rows.append(
                    (event.event_id, event.user_id, event.pin_id, event.action, int(event.time.timestamp() * 1e6))
                )
                byte += len(line) + 1
            with database:
                database.executemany("INSERT OR IGNORE INTO ids VALUES (?, ?, ?, ?, ?)", rows)
                database.executemany("INSERT INTO events VALUES (?2, ?5, ?1, ?3, ?4)", rows)
                database.executemany("INSERT INTO waiting VALUES (?5, ?1)", rows)
                database.execute("INSERT OR REPLACE INTO position VALUES ('a', ?)", [byte])
        return time.perf_counter() - started


def parse_alone(lines: list[bytes]) -> float:
    """Seconds for reading the JSON of all lines."""
    started = time.perf_counter()
    for line in lines:
        parse(line, NOW)
    return time.perf_counter() - started


@contextlib.contextmanager
def redis_server() -> Iterator[str | None]:
    """The address of a server of our own; None where there is no redis-server."""
    if not shutil.which("redis-server"):
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        options = ["--bind", "127.0.0.1", "--dir", folder, "--appendonly", "yes", "--save", ""]
        server = subprocess.Popen(["redis-server", "--port", str(port), *options], stdout=subprocess.DEVNULL)
        try:
            address = f"redis://127.0.0.1:{port}/0"
            for _ in range(100):
                with contextlib.suppress(StoreError):
                    open_store(address, Path(folder)).totals()
                    break
                time.sleep(0.05)
            yield address
        finally:
            server.kill()
            server.wait()


def show(name: str, events: int, seconds: float, first: float | None = None) -> float:
    """Print a row; events a second."""
    rate = events / seconds
    print(
        f"{name:28} {events:9,} events {seconds:8.2f} s {rate:9,.0f} a second   x {rate / (first or rate):6.3f}",
        flush=True,
    )
    return rate


if __name__ == "__main__":
    main()
