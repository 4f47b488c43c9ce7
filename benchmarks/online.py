"""Answering online: events per second, and requests over HTTP under load.

Run with ``python benchmarks/online.py``: 50,000 users and 200,000 pins of 256 dimensions. Users' clusters, the index,
the medoid cache and the snapshot are made by the assets themselves; a quarter of the users then act, up to 20 times
each, through the consumer. The service runs in a process of its own, as `make serve` starts it, and is asked over
loopback by another one, on the same two processors: at 300 requests a second that arrive at random times, whether
earlier ones have been answered or not, each for 400 candidates of a random user; and as fast as 16 connections can.
Latencies count from the moment at which a request should have been sent.

More of the consumer is in ``benchmarks/consumer.py``, and what the update of clusters costs in
``benchmarks/online_update.py``.
"""

import asyncio
import datetime
import json
import multiprocessing
import os
import socket
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl

from pinnersage_assets.lineage import retrieval, serving, users
from pinnersage_assets.resources import build_resources
from pinnersage_assets.serving.consumer import Consumer
from pinnersage_assets.serving.events import Event, to_json
from pinnersage_assets.serving.server import serve
from pinnersage_assets.serving.store import open_store
from pinnersage_assets.serving.stream import open_stream
from pinnersage_assets.settings import Environment, Settings
from pinnersage_assets.warehouse.ledger import record_partitions
from pinnersage_assets.warehouse.partitions import replace_partitions
from pinnersage_assets.warehouse.tables import all_tables

USERS, PINS_A_USER, ACTIONS, DIMENSIONS, TOPICS = 50_000, 4, 30, 256, 4_000
DAY = datetime.date(2026, 3, 31)
FIRST = DAY - datetime.timedelta(days=89)
MIDNIGHT = datetime.datetime.combine(DAY + datetime.timedelta(days=1), datetime.time(), datetime.UTC)
ACTING_SHARE, RECENT = 0.25, 20
RATE, SECONDS, CONNECTIONS = 300, 20, 16
SETTINGS = Settings(index={"exact_up_to": 0})


def main(number_of_users: int = USERS) -> None:
    """Print events and requests."""
    with tempfile.TemporaryDirectory() as name:
        data = Path(name)
        build(data, number_of_users)
        consume(data, number_of_users)
        answer(data, number_of_users)


# --- A day, made by the assets


def build(data: Path, number_of_users: int) -> None:
    """Staging tables of users with some interests each, then users, index, medoid cache and snapshot; published."""
    chance = np.random.default_rng(0)
    pins = PINS_A_USER * number_of_users
    topic_of_pin = np.sort(chance.integers(TOPICS, size=pins))
    topics = chance.standard_normal((TOPICS, DIMENSIONS), dtype=np.float32)
    vectors = _unit(
        topics[topic_of_pin] + np.float32(0.7) * chance.standard_normal((pins, DIMENSIONS), dtype=np.float32)
    )
    of_user = np.repeat(np.arange(number_of_users), ACTIONS)
    interests = chance.integers(TOPICS, size=(number_of_users, 8))
    topic = interests[of_user, np.minimum(chance.geometric(0.25, size=len(of_user)) - 1, 7)]
    first, last = np.searchsorted(topic_of_pin, topic), np.searchsorted(topic_of_pin, topic, side="right")
    pin = np.minimum(first + (chance.random(len(of_user)) * np.maximum(last - first, 1)).astype(np.int64), pins - 1)
    seconds = (chance.random(len(of_user)) * 90 * 86_400).astype(np.int64)
    start = datetime.datetime.combine(FIRST, datetime.time())
    actions = pl.DataFrame({"user_id": of_user, "pin_id": pin, "action": "repin"}).with_columns(
        ts=pl.lit(start) + pl.duration(seconds=pl.Series(seconds))
    )
    resources = build_resources(Environment(data, "simulated", FIRST), SETTINGS)
    warehouse = resources["warehouse"]
    with warehouse.get_connection() as connection:
        for table in (
            "staging.pins",
            "staging.actions",
            "staging.impressions",
            "corpus.pins",
            "corpus.near_duplicates",
        ):
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {table.partition('.')[0]}")
            connection.execute(all_tables()[table].definition(DIMENSIONS))
        connection.register("pin_frame", pl.DataFrame({"dt": FIRST, "pin_id": np.arange(pins), "embedding": vectors}))
        connection.execute(
            "INSERT INTO staging.pins BY NAME SELECT *, TIMESTAMP '2026-01-01' AS created_at FROM pin_frame"
        )
        connection.execute("INSERT INTO corpus.pins BY NAME SELECT ?::DATE AS dt, pin_id FROM pin_frame", [DAY])
        days = [FIRST + datetime.timedelta(days=offset) for offset in range(90)]
        rows = actions.with_columns(dt=pl.col("ts").dt.date()).unique()
        replace_partitions(connection, all_tables()["staging.actions"], days, rows, run_id="bench")
        record_partitions(connection, "staging.pins", {FIRST: (pins, 0)}, "bench", None)
    del vectors
    started = time.perf_counter()
    result = dg.materialize(
        [*users.ASSETS, retrieval.hnsw_index, retrieval.medoid_neighbours, *serving.ASSETS],
        partition_key=DAY.isoformat(),
        resources=resources,
        run_config={"loggers": {"console": {"config": {"log_level": "ERROR"}}}},
    )
    assert result.success
    published = Path(warehouse.published)
    published.parent.mkdir()
    os.link(warehouse.database, published)
    [row] = warehouse.read("SELECT users, clusters, pins FROM serving.snapshot").to_dicts()
    print(
        f"{row['users']:,} users with {row['clusters']:,} clusters, {row['pins']:,} pins: users, index, medoid cache "
        f"and snapshot made in {time.perf_counter() - started:.0f} s"
    )


def _unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _events(number_of_users: int) -> list[Event]:
    """What some users did in the morning, in the order of time."""
    chance = np.random.default_rng(1)
    acting = chance.choice(number_of_users, max(1, int(ACTING_SHARE * number_of_users)), replace=False)
    who = np.repeat(acting, chance.integers(1, RECENT + 1, size=len(acting)))
    moments = np.sort(chance.random(len(who))) * 9 * 3600
    chance.shuffle(who)
    pins = chance.integers(PINS_A_USER * number_of_users, size=len(who))
    return [
        Event(f"event-{place}", user, pin, "click", MIDNIGHT + datetime.timedelta(seconds=moment))
        for place, (user, pin, moment) in enumerate(zip(who.tolist(), pins.tolist(), moments.tolist(), strict=True))
    ]


# --- Events


def consume(data: Path, number_of_users: int) -> None:
    """Events per second from the stream into the store; the peer commits each by itself, as durably."""
    events = _events(number_of_users)
    with closing(open_store(SETTINGS.serving.store, data / "serving")) as store:
        stream = open_stream(SETTINGS.serving, store, data / "serving")
        now = MIDNIGHT + datetime.timedelta(hours=9)
        consumer = Consumer(store, stream, data, grace_minutes=5, remembered_days=7, now=lambda: now)
        consumer.resume()
        stream.send(to_json(event) for event in events)
        started = time.perf_counter()
        while consumer.counts.new < len(events):
            consumer.step(1.0)
        together = len(events) / (time.perf_counter() - started)
        more = [event._replace(event_id=f"single-{event.event_id}") for event in events[:200]]
        started = time.perf_counter()
        for event in more:
            store.commit([event], None)
        single = len(more) / (time.perf_counter() - started)
    print(f"{len(events):,} events through the consumer    {together:10,.0f} a second   x 1.00")
    print(f"each committed by itself           {single:10,.0f} a second   x {single / together:.3f}")


# --- Requests


def answer(data: Path, number_of_users: int) -> None:
    """Requests per second, latencies and the share of medoids whose neighbours were at hand."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    settings = SETTINGS.model_copy(
        update={"serving": SETTINGS.serving.model_copy(update={"port": port, "requests_per_minute": 10**9})}
    )
    spawn = multiprocessing.get_context("spawn")
    process = spawn.Process(target=_serve, args=(data, settings.model_dump_json()))
    process.start()
    try:
        _wait(lambda: _is_ready(port))
        seconds = SECONDS if number_of_users == USERS else 1
        for rate in (None, RATE):
            before, here = _counts(port), spawn.SimpleQueue()
            client = spawn.Process(target=_load, args=(port, number_of_users, rate, seconds, here))
            client.start()
            latencies, sizes, took = here.get()
            client.join()
            known, searched = (after - old for after, old in zip(_counts(port), before, strict=True))
            middle, late, worst = np.percentile(latencies, [50, 99, 100]) * 1e3
            asked = f"{rate} a second asked for" if rate else f"{CONNECTIONS} connections, as fast as they can"
            print(
                f"{asked:36} {len(latencies) / took:6.0f} requests/s   p50 {middle:6.1f} ms   p99 {late:6.1f} ms   "
                f"longest {worst:6.1f} ms   {np.mean(sizes):.0f} candidates   "
                f"{known / max(1, known + searched):.3f} of {known + searched:,.0f} medoids from the cache, x "
                f"{len(latencies) / took / RATE:.2f} of {RATE}",
                flush=True,
            )
    finally:
        process.terminate()
        process.join()


def _serve(data: Path, settings: str) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    published = data / "published" / "pinnersage.duckdb"
    serve(published, data, Settings.model_validate_json(settings), consume=False)


def _is_ready(port: int) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as response:
        assert json.load(response)["status"] == "ok"


def _wait(ready: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            ready()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _counts(port: int) -> tuple[float, float]:
    """Medoids whose neighbours were at hand, and others."""
    found = {"true": 0.0, "false": 0.0}
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
        for line in response.read().decode().splitlines():
            for cached in found:
                if line.startswith(f'pinnersage_medoids_total{{cached="{cached}"}}'):
                    found[cached] = float(line.split()[-1])
    return found["true"], found["false"]


def _load(port: int, number_of_users: int, rate: float | None, seconds: float, output) -> None:
    output.put(asyncio.run(_ask(port, number_of_users, rate, seconds)))


async def _ask(port: int, number_of_users: int, rate: float | None, seconds: float):
    """Latencies, sizes of the answers, and how long it took."""
    chance = np.random.default_rng(2)
    idle: asyncio.Queue = asyncio.Queue()
    for _ in range(CONNECTIONS if rate is None else 64):
        idle.put_nowait(await asyncio.open_connection("127.0.0.1", port))
    latencies, sizes = [], []

    async def ask(due: float) -> None:
        reader, writer = await idle.get()
        user = chance.integers(number_of_users)
        writer.write(f"GET /users/{user}/recommendations HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        body = await reader.readexactly(length)
        assert head.startswith(b"HTTP/1.1 200"), body
        latencies.append(time.perf_counter() - due)
        sizes.append(body.count(b'"score"'))
        idle.put_nowait((reader, writer))

    started = time.perf_counter()
    if rate is None:

        async def keep_asking() -> None:
            while time.perf_counter() < started + seconds:
                await ask(time.perf_counter())

        await asyncio.gather(*(keep_asking() for _ in range(CONNECTIONS)))
    else:
        due, waiting = started, []
        while due < started + seconds:
            due += chance.exponential(1 / rate)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            waiting.append(asyncio.create_task(ask(due)))
        await asyncio.gather(*waiting)
    return latencies, sizes, time.perf_counter() - started


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
