"""A consumer with a clock that tests set; and one in another process, which is killed.

Other processes import this, so it imports nothing that takes long.
"""

import datetime
import json
import os
import random
import signal
from collections import Counter

import pinnersage_assets.serving.consumer as module
import pinnersage_assets.serving.event_landing as landing
from pinnersage_assets.serving.consumer import Consumer
from pinnersage_assets.serving.events import Event, to_json
from pinnersage_assets.serving.file_stream import FileStream
from pinnersage_assets.serving.redis_stream import GROUP, STREAM, RedisStream
from pinnersage_assets.serving.store import Committed, open_store
from pinnersage_assets.sources.landing import LandingSource

UTC = datetime.UTC
DAY = datetime.date(2026, 3, 1)


def at(day: int, hour: int = 12, minute: int = 0, microsecond: int = 0) -> datetime.datetime:
    return datetime.datetime(2026, 3, day, hour, minute, 0, microsecond, UTC)


def event(event_id: str, user_id: int = 1, pin_id: int = 10, time=None, action: str = "repin") -> Event:
    return Event(event_id, user_id, pin_id, action, time or at(1))


class World:
    """A consumer of files, in a data directory, with a clock that tests set."""

    def __init__(self, data_dir, store, stream=None, remembered_days=7):
        self.data_dir, self.store, self.time = data_dir, store, at(1)
        self.stream = stream or FileStream(data_dir / "serving" / "events", lambda: self.time)
        self.consumer = Consumer(self.store, self.stream, data_dir, 5, remembered_days, lambda: self.time)
        self.consumer.resume()

    def send(self, *events) -> None:
        self.stream.send([e if isinstance(e, bytes) else to_json(e) for e in events])

    def consume(self, time=None) -> Committed:
        """Everything that has come, at a time."""
        self.time = time or self.time
        before = self.consumer.counts
        while self.consumer.step(0):
            pass
        after = self.consumer.counts
        return Committed(after.new - before.new, after.repeated - before.repeated, after.refused - before.refused)

    def files(self, day=DAY) -> list[str]:
        return sorted(path.name for path in (self.data_dir / "landing" / "actions" / f"dt={day}").glob("*"))

    def landed(self, day=DAY) -> list[tuple]:
        frame = LandingSource(self.data_dir / "landing").actions(day)
        return frame.select("user_id", "pin_id", "action", "ts").rows()

    def refused(self) -> list[dict]:
        paths = sorted((self.data_dir / "serving" / "refused").glob("dt=*/refused-*.jsonl"))
        return [json.loads(line) for path in paths for line in path.read_bytes().splitlines()]


def rows(*events) -> list[tuple]:
    return [(e.user_id, e.pin_id, e.action, e.time.replace(tzinfo=None)) for e in events]


def open_streams(data_dir, address, kind):
    """A store, and its stream of that kind."""
    store = open_store(address, data_dir / "serving")
    if kind == "files":
        return store, FileStream(data_dir / "serving" / "events", lambda: at(1))
    return store, RedisStream(store.client, "here", "one")


def kill_this_process(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def consume_on_and_on(data_dir, address, stream_kind, moment, ready):
    """What a consumer process does, until it is killed; from outside, or at a moment."""
    module._TEND_EVERY = module._LATE_EVERY = datetime.timedelta(0)
    module._BATCH = 25
    store, stream = open_streams(data_dir, address, stream_kind)
    world = World(data_dir, store, stream, remembered_days=365)
    world.time = at(9)
    if moment:
        set_trap(world, *moment.split())
    ready.send("ready")
    while True:
        world.consumer.step(0.01)


def set_trap(world, when, what):
    owner, name = {
        "commit": (world.store, "commit"),
        "acknowledge": (world.stream, "acknowledge"),
        "claim": (world.store, "claim"),
        "file": (landing, "write_parquet_atomically"),
        "rename": (os, "replace"),
        "confirm": (world.store, "confirm"),
        "drop": (world.store, "drop_refused"),
    }[what]
    real = getattr(owner, name)

    def trap(*arguments, **options):
        if when == "after":
            real(*arguments, **options)
        kill_this_process()

    setattr(owner, name, trap)


def some_traffic(seed: int, n: int):
    """Events of two days with duplicates, out of order, and corrupt lines in between."""
    rng = random.Random(seed)
    events = [event(f"e{seed}-{i}", i % 7, i, at(1 + i % 2, rng.randrange(24), 0, i)) for i in range(n)]
    corrupt = [b"corrupt %d-%d" % (seed, i) for i in range(n // 10)]
    lines = [to_json(e) for e in events + rng.sample(events, n // 3)] + corrupt
    rng.shuffle(lines)
    return events, corrupt, lines


def check_all_there(data_dir, address, stream_kind, events, corrupt):
    """One more consumer goes through the rest; then everything is there, each once."""
    store, stream = open_streams(data_dir, address, stream_kind)
    world = World(data_dir, store, stream, remembered_days=365)
    world.consume(at(9))
    while stream_kind == "redis" and store.client.xpending(STREAM, GROUP)["pending"]:
        # The server has answered a consumer that was dead already; a running one looks for that now and then.
        world.consumer.resume()
        world.consume(world.time + datetime.timedelta(hours=2))
    landed = Counter(row for day in (1, 2) for row in world.landed(datetime.date(2026, 3, day)))
    expected = Counter(rows(*events))
    assert not landed - expected, "more than came has landed"
    assert not expected - landed, "not all that came has landed"
    assert store.unconfirmed() == []
    assert store.days_waiting() == []
    assert Counter(one["data"].encode() for one in world.refused()) == Counter(corrupt)
    assert (store.totals().new, store.totals().refused) == (len(events), len(corrupt))
    for user in range(7):
        expected = sorted((e for e in events if e.user_id == user), key=lambda e: (e.time, e.event_id))
        assert store.recent(user, at(1, 0)).pin_ids.tolist() == [e.pin_id for e in expected]
    for path in data_dir.glob("landing/actions/*/*"):
        assert path.name.startswith("events-")
