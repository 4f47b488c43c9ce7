"""Users are erased from everywhere, and nobody else is touched; searched for here by other means than the command's."""

import datetime
import json
import re
import shutil
import subprocess
import sys
from contextlib import closing

import duckdb
import numpy as np
import polars as pl
import pytest
from conftest import LAST, PLANTS
from world import START, on

from pinnersage_assets.erasure import ErasureError, erase_users
from pinnersage_assets.graph_files import map_graph
from pinnersage_assets.lineage.stale_partitions import find_stale
from pinnersage_assets.serving.consumer import consuming
from pinnersage_assets.serving.served_day import open_served_day
from pinnersage_assets.serving.store import open_store
from pinnersage_assets.settings import Environment
from pinnersage_assets.warehouse.publishing import UnreadableCopyError

NOW = datetime.datetime.combine(on(11), datetime.time(12), datetime.UTC)


@pytest.fixture
def erased_world(world, tmp_path):
    """A copy, with what serving, importing and killed runs add to it; and two users: one is shown in a report."""
    copy = world.copy(tmp_path / "data")
    page = (copy.data / "reports" / f"dt={LAST}" / "index.html").read_text()
    users = [PLANTS.negative, int(re.search(r">User (-?\d+)<", page)[1])]
    other = next(int(user) for user in re.findall(r">User (-?\d+)<", page) if int(user) not in users)
    events = copy.data / "serving" / "events"
    events.mkdir(parents=True)
    lines = [line(n, user, hour) for n, (user, hour) in enumerate((u, h) for u in (*users, other) for h in (1, 13, 48))]
    (events / "producer.jsonl").write_text("".join(lines))
    with consuming(Environment(copy.data, "landing", START), copy.settings.serving, lambda: NOW) as consumer:
        consumer.resume()
        while consumer.step(0):
            pass
    with (events / "producer.jsonl").open("a") as file:
        file.write(line("unread", users[0], 2) + line("other unread", other, 2))
    names = pl.DataFrame({"id": [*users, other], "original": ["alice", "bob", "carol"]})
    (copy.landing / "dictionaries").mkdir()
    names.write_parquet(copy.landing / "dictionaries" / "users.parquet")
    # A hidden file, which nobody reads as data.
    hidden = copy.landing / "actions" / f"dt={LAST}" / ".old.parquet"
    shutil.copy(next(hidden.parent.glob("*.parquet")), hidden)
    # Not everybody has boards: the first user gets one that is in the graph.
    board = copy.read("SELECT min(board_id) FROM graph.edges WHERE dt = $day", day=LAST).item()
    copy.execute("UPDATE staging.board_pins SET user_id = $user WHERE board_id = $board", user=users[0], board=board)
    killed = copy.data / "warehouse" / "scratch" / "killed"
    killed.mkdir()
    pl.DataFrame({"user_id": users}).write_parquet(killed / "bucket.parquet")
    return copy, users, other


def line(name, user, hour) -> str:
    time = datetime.datetime.combine(on(10), datetime.time(), datetime.UTC) + datetime.timedelta(hours=hour)
    # An hour of tomorrow is refused.
    event = {"event_id": f"e{name}", "user_id": user, "pin_id": 7, "action": "repin", "time": time.isoformat()}
    return json.dumps(event) + "\n"


def parquet_rows(folder, users) -> int:
    frames = (pl.read_parquet(path, hive_partitioning=False) for path in folder.rglob("*.parquet"))
    return sum(frame.filter(pl.col("user_id").is_in(users)).height for frame in frames if "user_id" in frame.columns)


def rows_by_table(path, condition) -> dict[str, list[tuple]]:
    with duckdb.connect(str(path), read_only=True) as connection:
        tables = connection.execute("SELECT schema_name || '.' || table_name FROM duckdb_tables()").fetchall()
        found = {}
        for (table,) in tables:
            columns = {name for name, *_ in connection.execute(f"DESCRIBE {table}").fetchall()}
            if "user_id" in columns:
                found[table] = connection.execute(
                    f"SELECT * FROM {table} WHERE user_id {condition} ORDER BY ALL"
                ).fetchall()
        found["staging.rejected"] = connection.execute(
            f"SELECT * FROM staging.rejected WHERE (row->>'$.user_id')::VARCHAR {condition} ORDER BY ALL"
        ).fetchall()
    return found


def test_users_are_erased_from_every_table_file_and_store_and_nobody_else_is(erased_world):
    world, users, other = erased_world
    databases = world.data / "warehouse" / "pinnersage.duckdb", world.data / "published" / "pinnersage.duckdb"
    theirs, others = (f"{no} IN ({', '.join(f'{user!r}' for user in map(str, users))})" for no in ("", "NOT"))
    before = {path: rows_by_table(path, others) for path in databases}
    for path in databases:
        there = {table for table, rows in rows_by_table(path, theirs).items() if rows}
        assert there >= {"raw.actions", "staging.actions", "users.medoids", "retrieval.recommendations"}
    landed = parquet_rows(world.landing, [other])
    query = "SELECT DISTINCT board_id FROM staging.board_pins WHERE list_contains($users, user_id)"
    boards = world.read(query, users=users)["board_id"].to_list()
    graphs = [path for path in (world.data / "graph").glob("*/*") if np.isin(boards, map_graph(path).board_ids).any()]
    assert graphs
    with closing(open_store("lmdb", world.data / "serving")) as store:
        versions = store.versions()
        assert all(any(store.read_user(version, user) for version in versions) for user in users)
        known = {version: store.read_user(version, other) is not None for version in versions}
        assert len(store.recent(users[0], NOW - datetime.timedelta(days=3))) == 2
        kept = store.recent(other, NOW - datetime.timedelta(days=3))

    done = {place.place: place for place in erase_users(world.warehouse, world.settings.serving, users)}

    assert {name for name, place in done.items() if not place.found} == set()
    assert [place.left for place in done.values()] == [0] * len(done)
    assert parquet_rows(world.data, users) == 0
    assert not any(path.exists() for path in graphs)
    assert parquet_rows(world.landing, [other]) == landed
    for path in databases:
        assert not any(rows_by_table(path, theirs).values())
        assert rows_by_table(path, others) == before[path]
        with duckdb.connect(str(path), read_only=True) as connection:
            for table, day, rows in connection.execute(
                "SELECT table_name, dt, rows FROM operations.partitions WHERE status <> 'expired' "
                "AND table_name <> 'operations.publications'"
            ).fetchall():
                assert connection.execute(f"SELECT count(*) FROM {table} WHERE dt = ?", [day]).fetchall() == [
                    (rows,)
                ], table
    texts = [path.read_text() for kind in ("html", "jsonl") for path in world.data.rglob(f"*.{kind}")]
    assert not any(re.search(rf"(?<!\d){user}(?!\d)", text) for text in texts for user in users)
    assert sum(str(other) in text for text in texts) >= 2
    names = pl.read_parquet(world.landing / "dictionaries" / "users.parquet")
    assert names.rows() == [(users[0], None), (users[1], None), (other, "carol")]
    with closing(open_store("lmdb", world.data / "serving")) as store:
        for user in users:
            assert len(store.recent(user, NOW - datetime.timedelta(days=30))) == 0
        assert store.recent(other, NOW - datetime.timedelta(days=3)).times.tolist() == kept.times.tolist()
        for version in versions:
            assert (store.read_user(version, other) is not None) == known[version]
            assert not any(store.read_user(version, user) for user in users)
        # A service finds what the rows say; what was read of the stream does not come again, what was not does.
        published = world.data / "published" / "pinnersage.duckdb"
        assert open_served_day(published, world.data, world.settings, store).day == LAST
    with consuming(Environment(world.data, "landing", START), world.settings.serving, lambda: NOW) as consumer:
        consumer.resume()
        assert consumer.step(0) == 1
        assert (consumer.counts.new, consumer.counts.repeated, consumer.counts.refused) == (1, 0, 0)
    # What counts users together is stale, and says why.
    with world.warehouse.get_reader() as connection:
        stale = find_stale(connection, world.defs.resolve_all_asset_specs(), world.resources["source"], world.settings)
    assert set(stale["table_name"]) == {"raw.actions"}
    again = erase_users(world.warehouse, world.settings.serving, users)
    assert [place.found for place in again] == [0] * len(again)


def test_a_file_that_cannot_be_searched_is_named_and_nothing_is_erased(world, tmp_path):
    copy = world.copy(tmp_path / "data")
    before = parquet_rows(copy.landing, [PLANTS.negative])
    broken = copy.landing / "impressions" / f"dt={LAST}" / "broken.parquet"
    broken.write_bytes(b"PAR1 cut")
    with pytest.raises(ErasureError, match=r"broken\.parquet cannot be searched.*delete it, and erase again"):
        erase_users(copy.warehouse, copy.settings.serving, [PLANTS.negative])
    broken.unlink()
    assert before == parquet_rows(copy.landing, [PLANTS.negative]) > 0
    query = "SELECT count(*) FROM users.medoids WHERE user_id = $user"
    assert copy.warehouse.read(query, {"user": PLANTS.negative}).item() > 0


# In another process: what somebody does who opens the copy with the wrong client, as a user who may.
OPENS_TO_WRITE = """
import os, sys, duckdb
os.chmod(sys.argv[1], 0o644)
with duckdb.connect(sys.argv[1]):
    print("open", flush=True)
    sys.stdin.read()
"""


def test_a_copy_that_another_process_has_open_to_write_is_named_and_nothing_is_erased(world, tmp_path):
    copy = world.copy(tmp_path / "data")
    before = parquet_rows(copy.landing, [PLANTS.negative])
    command = [sys.executable, "-c", OPENS_TO_WRITE, copy.warehouse.published]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "open\n"
        with pytest.raises(UnreadableCopyError, match=r"published/pinnersage\.duckdb cannot be read: .*erase again"):
            erase_users(copy.warehouse, copy.settings.serving, [PLANTS.negative])
        writer.stdin.close()
    assert writer.returncode == 0
    assert before == parquet_rows(copy.landing, [PLANTS.negative]) > 0
    erased = erase_users(copy.warehouse, copy.settings.serving, [PLANTS.negative])
    assert next(place.found for place in erased if place.place == "published copy, rows") > 0
