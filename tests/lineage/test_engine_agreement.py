"""Whatever runs the kernels, and in however many buckets, the tables are the same; or they are as they were."""

import importlib.util
from pathlib import Path

import polars as pl
import pytest
from world import World, failures, on, small_settings

from pinnersage_assets.engines import tasks
from pinnersage_assets.kernels import near_duplicates as near_duplicate_kernels
from pinnersage_assets.kernels import users as kernels

TABLES = ("users.clusters", "users.medoids")
DAYS = 12


def settings_with(**engine):
    simulation = {"users": 80, "actions_per_user_and_day": 0.5}
    return small_settings(simulation=simulation, window={"days": 8}, engine=engine)


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    world = World.new(tmp_path_factory.mktemp("staged") / "data", settings_with())
    assert failures(world.run("raw_and_staging", on(0), on(DAYS - 1))) == {}
    assert failures(materialise(world, on(DAYS - 2))) == {}
    return world


@pytest.fixture(scope="module")
def expected(staged, tmp_path_factory):
    """The day after, in this process and one bucket."""
    world = staged.copy(tmp_path_factory.mktemp("expected") / "data", settings_with(rows_a_bucket=10**9))
    assert failures(materialise(world, on(DAYS - 1))) == {}
    return rows(world)


def materialise(world, day):
    return world.run("users_and_retrieval", day, only=TABLES)


def rows(world):
    """As they are stored: their order, too, must not tell what made them."""
    return {table: world.read(f"SELECT * FROM {table} WHERE dt = $day", day=on(DAYS - 1)) for table in TABLES}


def scratch(world):
    return list(Path(world.warehouse.database).parent.glob("scratch/*"))


@pytest.mark.parametrize("rows_a_bucket", [20, 300])
@pytest.mark.parametrize("kind", ["in_process", "processes", pytest.param("ray", marks=pytest.mark.slow)])
def test_every_engine_makes_the_same_rows(staged, expected, tmp_path, kind, rows_a_bucket):
    if kind == "ray" and importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install -c constraints.txt -e '.[dev,ray]'")
    world = staged.copy(tmp_path / "data", settings_with(kind=kind, workers=2, rows_a_bucket=rows_a_bucket))
    result = materialise(world, on(DAYS - 1))
    assert failures(result) == {}
    found = rows(world)
    for table in TABLES:
        assert len(found[table]) > 100
        assert found[table].equals(expected[table]), table
    [event] = result.asset_materializations_for_node("users__clusters")
    reused = event.metadata["users reused from the day before"].value
    assert 0 < reused < found["users.clusters"]["user_id"].n_unique()
    assert scratch(world) == []


def accept_and_damage(task, text):
    receipt = tasks.accept(task, text)
    if task.key == "1":
        content = bytearray(task.destination.read_bytes())
        content[50] ^= 1
        task.destination.write_bytes(content)
    return receipt


@pytest.mark.parametrize("fault", ["kernel fails", "receipt lies", "row is lost", "row comes twice", "file is damaged"])
def test_a_day_that_cannot_be_made_stays_as_it_was(staged, tmp_path, monkeypatch, fault):
    world = staged.copy(tmp_path / "data", settings_with(rows_a_bucket=100))
    day = on(DAYS - 2)
    before = world.read("FROM users.clusters WHERE dt = $day", day=day)
    ledger = world.read("FROM operations.partitions WHERE table_name = 'users.clusters'")
    real = kernels.cluster_bucket
    buckets = []

    def faulty(source, destination, parameters):
        buckets.append(source)
        if source.name > "000001.parquet" and fault == "kernel fails":
            raise MemoryError("no more")
        made = real(source, destination, parameters)
        if source.name != "000001.parquet":
            return made
        frame = pl.read_parquet(destination)
        if fault == "row is lost":
            frame = frame[1:]
        elif fault == "row comes twice":
            frame = pl.concat([frame[:1], frame[:1], frame[2:]])
        frame.write_parquet(destination)
        return len(frame) + (fault == "receipt lies")

    monkeypatch.setattr(kernels, "cluster_bucket", faulty)
    if fault == "file is damaged":
        monkeypatch.setattr("pinnersage_assets.engines.engine.accept", accept_and_damage)
    world.execute("DELETE FROM users.clusters WHERE dt = $before", before=on(DAYS - 3))
    message = failures(materialise(world, day))["users__clusters"]
    assert {
        "kernel fails": "cluster_bucket failed 4 times and was given up: MemoryError: no more",
        "receipt lies": "rows, its receipt says",
        "row is lost": "rows of bucket 1, which has",
        "row comes twice": "the results have (user_id, pin_id) = (",
        "file is damaged": "000001.parquet is damaged: its checksum is",
    }[fault] in message
    assert buckets
    assert world.read("FROM users.clusters WHERE dt = $day", day=day).equals(before)
    assert world.read("FROM operations.partitions WHERE table_name = 'users.clusters'").equals(ledger)
    assert scratch(world) == []


# --- Near-duplicates, whose kernel meets shards of earlier pins


def group(world, first, last):
    return world.run("near_duplicates", on(first), on(last) if last > first else None)


def groups(world):
    return world.read("SELECT * FROM corpus.near_duplicates ORDER BY dt, pin_id")


@pytest.fixture(scope="module")
def grouped(staged, tmp_path_factory):
    """Near-duplicates of all days in one run: no representative is of an earlier day. Read-only."""
    world = staged.copy(tmp_path_factory.mktemp("grouped") / "data")
    assert failures(group(world, 0, DAYS - 1)) == {}
    return world


@pytest.mark.parametrize(
    ("kind", "rows_a_bucket"),
    [
        ("in_process", 10**9),
        ("in_process", 300),
        ("in_process", 60),
        ("processes", 300),
        pytest.param("ray", 300, marks=pytest.mark.slow),
    ],
)
def test_every_engine_groups_the_same_near_duplicates(staged, grouped, tmp_path, kind, rows_a_bucket):
    if kind == "ray" and importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install -c constraints.txt -e '.[dev,ray]'")
    world = staged.copy(tmp_path / "data", settings_with(kind=kind, workers=2, rows_a_bucket=rows_a_bucket))
    for first, last in ((0, 0), (1, 6), (7, 7), (8, DAYS - 1)):
        assert failures(group(world, first, last)) == {}
    assert groups(world).equals(groups(grouped))
    # New pins join pins of earlier days, and of their own.
    joined = world.read(
        "SELECT d.dt, p.dt AS of FROM corpus.near_duplicates AS d JOIN staging.pins AS p ON canonical_pin_id = p.pin_id"
    )
    later = joined.filter(pl.col("dt") > on(0))
    assert len(later.filter(pl.col("dt") > pl.col("of"))) > 5
    assert scratch(world) == []


@pytest.mark.parametrize("fault", ["kernel fails", "receipt lies", "file is damaged"])
def test_near_duplicates_that_cannot_be_found_stay_as_they_were(grouped, tmp_path, monkeypatch, fault):
    world = grouped.copy(tmp_path / "data", settings_with(rows_a_bucket=300))
    before, ledger = groups(world), world.read("FROM operations.partitions")
    real = near_duplicate_kernels.search_shard

    def faulty(source, destination, parameters):
        if source.name == "000001.parquet" and fault == "kernel fails":
            raise MemoryError("no more")
        return real(source, destination, parameters) + (source.name == "000001.parquet" and fault == "receipt lies")

    monkeypatch.setattr(near_duplicate_kernels, "search_shard", faulty)
    if fault == "file is damaged":
        monkeypatch.setattr("pinnersage_assets.engines.engine.accept", accept_and_damage)
    message = failures(group(world, DAYS - 1, DAYS - 1))["corpus__near_duplicates"]
    assert {
        "kernel fails": "search_shard failed 4 times and was given up: MemoryError: no more",
        "receipt lies": "rows, its receipt says",
        "file is damaged": "000001.parquet is damaged: its checksum is",
    }[fault] in message
    assert groups(world).equals(before)
    assert world.read("FROM operations.partitions").equals(ledger)
    assert scratch(world) == []
