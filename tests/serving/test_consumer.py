"""The consumer: events in, files out, each once; and what it does when something fails."""

import datetime
import os
import random
import signal
import subprocess
import sys
import threading
import time

import polars as pl
import pytest
from consuming import (
    DAY,
    UTC,
    World,
    at,
    check_all_there,
    consume_on_and_on,
    event,
    open_streams,
    rows,
    some_traffic,
)
from redis_server import RedisServer

from pinnersage_assets.serving import consumer as module
from pinnersage_assets.serving.consumer import consuming
from pinnersage_assets.serving.events import to_json
from pinnersage_assets.serving.file_stream import FileStream
from pinnersage_assets.serving.redis_stream import RedisStream
from pinnersage_assets.serving.store import Committed, StoreError, open_store
from pinnersage_assets.settings import Environment, ServingSettings


@pytest.fixture
def world(tmp_path, store):
    return World(tmp_path, store)


def test_events_are_there_when_somebody_asks_and_land_after_midnight(world):
    late, early = event("b", time=at(1, 11)), event("a", pin_id=11, time=at(1, 1))
    world.send(late, early, early)
    assert world.consume() == Committed(new=2, repeated=1)
    recent = world.store.recent(1, at(1, 0))
    assert recent.pin_ids.tolist() == [11, 10]
    assert recent.actions == ["repin", "repin"]
    assert world.files() == []
    world.consume(at(2, 0, 4))
    assert world.files() == []
    world.consume(at(2, 0, 5))
    assert world.files() == ["events-0000.parquet"]
    assert world.landed() == rows(early, late)
    world.consume(at(2, 3))
    assert world.files() == ["events-0000.parquet"]


def test_a_landing_file_has_the_columns_of_the_contract(world):
    world.send(event("a"))
    world.consume(at(2))
    world.consume(at(2, 1))
    frame = pl.read_parquet(world.data_dir / "landing" / "actions" / f"dt={DAY}" / "events-0000.parquet")
    assert frame.schema == {"user_id": pl.Int64, "pin_id": pl.Int64, "action": pl.String, "ts": pl.Datetime("us")}


def test_a_clock_that_was_set_back_does_not_stop_landing(world):
    world.consume(at(9))
    world.send(event("a"))
    world.consume(at(2, 1))
    assert world.landed() == rows(event("a"))


def test_days_are_those_of_the_events_and_each_lands_on_its_own(world):
    events = [event("a", time=at(1, 0)), event("b", time=at(1, 23, 59, 999_999)), event("c", time=at(2, 0))]
    world.send(*events)
    world.consume(at(2, 12))
    assert world.landed() == rows(*events[:2])
    assert world.landed(datetime.date(2026, 3, 2)) == []
    world.consume(at(3, 12))
    assert world.landed(datetime.date(2026, 3, 2)) == rows(events[2])


def test_what_comes_late_is_the_next_file_and_not_too_often(world):
    world.send(event("a"))
    world.consume(at(2, 1))
    for minute, name in ((10, "b"), (20, "c")):
        world.send(event(name))
        world.consume(at(2, 1, minute))
    assert world.files() == ["events-0000.parquet"]
    world.consume(at(2, 2))
    assert world.files() == ["events-0000.parquet", "events-0001.parquet"]
    world.send(event("a"), event("b"))
    assert world.consume(at(2, 4)) == Committed(repeated=2)
    assert len(world.files()) == 2
    assert len(world.landed()) == 3


def test_a_store_begun_anew_writes_over_no_file_of_another(tmp_path):
    world = World(tmp_path, open_store("lmdb", tmp_path / "one"))
    world.send(event("a"))
    world.consume(at(2, 1))
    again = World(tmp_path, open_store("lmdb", tmp_path / "two"))
    again.consume(at(2, 1))
    assert world.files() == ["events-0000.parquet", "events-0001.parquet"]
    # Both have the event; staging keeps one of equal rows.
    assert world.landed() == rows(event("a"), event("a"))


def test_a_day_does_not_land_while_its_events_wait_in_the_stream(world, monkeypatch):
    monkeypatch.setattr(module, "_BATCH", 10)
    events = [event(f"e{n:02}", time=at(1, 1, 0, n)) for n in range(25)]
    world.send(*events)
    world.consume(at(2, 12))
    assert world.files() == ["events-0000.parquet"]
    assert world.landed() == rows(*events)


def test_what_is_no_event_is_kept_with_its_reason_and_place(world):
    bad = [b"{", b"\xff", to_json(event("x", user_id=2**70)), to_json(event("y", time=at(3)))]
    world.send(event("a"), bad[0], event("b"), *bad[1:], event("a", pin_id=3))
    assert world.consume(at(1)) == Committed(new=2, refused=5)
    assert world.consume(at(2)) == Committed()
    refused = world.refused()
    assert [one["reason"].split(":")[0] for one in refused] == [
        "Invalid JSON",
        "Invalid JSON",
        "user_id",
        "time",
        "event_id",
    ]
    assert refused[0]["source"].startswith("2026-03-01.jsonl:")
    assert [one["data"] for one in refused[:2]] == ["{", "�"]
    assert all(one["time"].startswith("2026-03-01T12") for one in refused)
    assert world.store.refused(10) == []
    world.send(b"}")
    world.consume(at(2, 14))
    assert len(world.refused()) == 6


def test_events_leave_when_every_snapshot_contains_them_and_ids_when_the_settings_say(world):
    world.send(event("a", time=at(1)), event("b", time=at(2)))
    world.consume(at(3))
    for version, seen in (("2026-02-28", 2), ("2026-03-01", 2)):
        world.store.write_snapshot(version, [])
        world.consume(at(3, 13 + seen))
        assert len(world.store.recent(1, at(1, 0))) == seen
    world.store.drop_snapshots(["2026-03-01"])
    world.consume(at(3, 20))
    assert world.store.recent(1, at(1, 0)).times.astype(str).tolist() == ["2026-03-02T12:00:00.000000"]
    world.send(event("a", time=at(1)))
    # However late the clock says it is: it may be wrong.
    assert world.consume(at(20)) == Committed(repeated=1)
    world.send(event("c", time=at(9)))
    world.consume(at(20, 13))
    world.send(event("a", time=at(1)), event("b", time=at(2)))
    assert world.consume(at(20, 14)) == Committed(repeated=1, refused=1)
    assert len(world.landed()) == 1


def test_after_a_long_absence_everything_lands_before_its_ids_are_forgotten(world, monkeypatch):
    monkeypatch.setattr(module, "_BATCH", 2)
    events = [event(f"e{day}{n}", time=at(day)) for day in (1, 2, 3) for n in range(3)]
    world.send(*events, *events)
    assert world.consume(at(30)) == Committed(new=9, repeated=9)
    assert [len(world.landed(datetime.date(2026, 3, day))) for day in (1, 2, 3)] == [3, 3, 3]


def test_a_full_disk_holds_up_landing_and_nothing_else(world, monkeypatch, caplog):
    def full(frame, path):
        raise OSError(28, "No space left on device")

    world.send(event("a"))
    with monkeypatch.context() as patch:
        patch.setattr("pinnersage_assets.serving.event_landing.write_parquet_atomically", full)
        world.consume(at(2, 1))
        world.send(event("b", time=at(2)))
        assert world.consume(at(2, 13)) == Committed(new=1)
    assert "No space left on device. Landing is tried again in 10 s; nothing is lost" in str(caplog.text)
    world.consume(at(2, 14))
    assert world.landed() == rows(event("a"))


def test_duplicates_in_any_order_with_corrupt_lines_in_between_count_once(tmp_path, store, address):
    streams = [FileStream(tmp_path / "serving" / "events", lambda: at(1))]
    if address != "lmdb":
        streams.append(RedisStream(store.client, "here"))
    rng = random.Random(3)
    events = [event(f"e{n}", rng.randrange(5), n, at(1, rng.randrange(20), 0, n)) for n in range(300)]
    sent = [to_json(e) for e in rng.choices(events, k=900) + events] + [b"corrupt %d" % n for n in range(50)]
    for stream in streams:
        rng.shuffle(sent)
        for first in range(0, len(sent), 100):
            stream.send(sent[first : first + 100])
    counts = Committed()
    for stream in streams:
        world = World(tmp_path, store, stream)
        counts += world.consume(at(2, 1))
    assert counts == Committed(300, len(streams) * 1200 - 300, len(streams) * 50)
    assert store.totals() == counts
    assert sorted(world.landed()) == sorted(rows(*events))
    for user in range(5):
        expected = sorted((e for e in events if e.user_id == user), key=lambda e: (e.time, e.event_id))
        assert store.recent(user, at(1, 0)).pin_ids.tolist() == [e.pin_id for e in expected]
        assert store.recent(user, at(1, 0), 20).pin_ids.tolist() == [e.pin_id for e in expected][-20:]


# --- Redis ends and comes back


def test_the_server_killed_and_restarted_in_the_middle_loses_nothing(tmp_path, server, monkeypatch, caplog):
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.02)
    monkeypatch.setattr(module, "_LONGEST_PAUSE", 0.1)
    monkeypatch.setattr(module, "_BATCH", 20)
    other = RedisServer(tmp_path)
    other.start()
    store = other.store()
    world = World(tmp_path, store, RedisStream(store.client, "here", "one"))
    stop = threading.Event()
    running = threading.Thread(target=world.consumer.run, args=(stop,))
    running.start()
    events = [event(f"e{n}", n % 7, n, at(1, 1, 0, n)) for n in range(1000)]
    producer = RedisStream(other.store().client, "here")
    for first in range(0, 1000, 50):
        if first in (200, 500, 800):
            other.kill()
            other.start()
        while True:
            # A producer that does not know whether it was heard says it again.
            try:
                producer.send(to_json(e) for e in events[first : first + 50])
                break
            except StoreError:
                time.sleep(0.02)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if store.totals().new == 1000 and not store.client.xpending("pinnersage:events", "pinnersage")["pending"]:
                break
        except StoreError:
            pass
        time.sleep(0.02)
    stop.set()
    running.join()
    assert "Trying again in" in caplog.text
    assert store.totals().new == 1000
    world = World(tmp_path, store, RedisStream(store.client, "here", "one"))
    world.consume(at(2, 1))
    assert sorted(world.landed()) == sorted(rows(*events))
    other.kill()


# --- SIGKILL


def a_process(processes, *arguments):
    ours, theirs = processes.Pipe(duplex=False)
    process = processes.Process(target=consume_on_and_on, args=(*arguments, theirs))
    process.start()
    theirs.close()
    assert ours.recv() == "ready"
    return process


# Each store and each stream in the gate, all pairs in the long suite.
STREAMS = [("lmdb", "files"), pytest.param("redis", "files", marks=pytest.mark.slow), ("redis", "redis")]


@pytest.mark.parametrize(("kind", "stream_kind"), STREAMS)
def test_killed_at_chosen_moments_the_consumer_loses_nothing_and_counts_nothing_twice(
    tmp_path, request, processes, kind, stream_kind
):
    address = "lmdb" if kind == "lmdb" else request.getfixturevalue("server").address
    store, stream = open_streams(tmp_path, address, stream_kind)
    moments = [
        f"{when} {what}"
        for what in ("commit", "acknowledge", "claim", "confirm", "drop")
        for when in ("before", "after")
    ]
    moments += ["before file", "before rename", "after rename"]
    events, corrupt = [], []
    for seed, moment in enumerate(moments):
        more, bad, lines = some_traffic(seed, 30)
        stream.send(lines)
        events, corrupt = events + more, corrupt + bad
        process = a_process(processes, tmp_path, address, stream_kind, moment)
        process.join(20)
        assert process.exitcode == -signal.SIGKILL, moment
    store.close()
    check_all_there(tmp_path, address, stream_kind, events, corrupt)


@pytest.mark.parametrize(("kind", "stream_kind"), STREAMS)
def test_killed_at_random_moments_the_consumer_loses_nothing_and_counts_nothing_twice(
    tmp_path, request, processes, kind, stream_kind
):
    address = "lmdb" if kind == "lmdb" else request.getfixturevalue("server").address
    store, stream = open_streams(tmp_path, address, stream_kind)
    rng = random.Random(1)
    events, corrupt = [], []
    for seed in range(100, 108):
        process = a_process(processes, tmp_path, address, stream_kind, "")
        more, bad, lines = some_traffic(seed, 200)
        events, corrupt = events + more, corrupt + bad
        stream.send(lines[:130])
        time.sleep(rng.uniform(0, 0.06))
        stream.send(lines[130:])
        time.sleep(rng.uniform(0, 0.04))
        process.kill()
        process.join()
    store.close()
    check_all_there(tmp_path, address, stream_kind, events, corrupt)


# --- The command


def test_the_command_consumes_until_it_is_told_to_stop_and_is_alone(tmp_path):
    now = datetime.datetime.now(UTC)
    FileStream(tmp_path / "serving" / "events").send([to_json(event("a", time=now)), b"corrupt"])
    environment = {**os.environ, "PINNERSAGE_DATA_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "pinnersage_assets", "consume"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    store = None
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and (store is None or not store.totals().new):
        time.sleep(0.05)
        if (tmp_path / "serving" / "events.lmdb").exists():
            store = store or open_store("lmdb", tmp_path / "serving")
    assert store.totals() == Committed(new=1, refused=1)
    with (
        pytest.raises(StoreError, match="another consumer runs"),
        consuming(Environment(tmp_path, "landing", DAY), ServingSettings()),
    ):
        pass
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "ended: Committed(new=1, repeated=0, refused=1)" in said
    with consuming(Environment(tmp_path, "landing", DAY), ServingSettings()) as consumer:
        consumer.resume()
        assert consumer.step(0) == 0
