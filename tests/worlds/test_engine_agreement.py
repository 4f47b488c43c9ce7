"""Whatever runs the kernels, and in however many buckets, the tables are the same; or they are as they were."""

import functools
import importlib.util
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from threadpoolctl import threadpool_limits
from world import World, failures, on, small_settings

from pinnersage_assets.engines import tasks
from pinnersage_assets.kernels import near_duplicates as near_duplicate_kernels
from pinnersage_assets.kernels import retrieval as retrieval_kernels
from pinnersage_assets.kernels import users as kernels
from pinnersage_assets.model.variants import BY_INDEX

TABLES = ("users.clusters", "users.medoids")
DAYS = 12


def settings_with(index=None, condition="", **engine):
    # So few neighbours are asked for that a graph is searched, and so few more that some users must wait.
    return small_settings(
        simulation={"users": 80, "actions_per_user_and_day": 0.5},
        window={"days": 8},
        index={"recall_floor": 0.5, **(index or {})},
        retrieval={"budget": 30, "margin": 2, "condition": condition},
        engine=engine,
    )


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


def skip_without(kind):
    if kind == "ray" and importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install -c constraints.txt -e '.[dev,ray]'")


def scratch(world):
    return list(Path(world.warehouse.database).parent.glob("scratch/*"))


@pytest.mark.parametrize("rows_a_bucket", [20, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["in_process", "processes", pytest.param("ray", marks=pytest.mark.slow)])
def test_every_engine_makes_the_same_rows(staged, expected, tmp_path, kind, rows_a_bucket):
    skip_without(kind)
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
        pytest.param("in_process", 10**9, marks=pytest.mark.slow),
        pytest.param("in_process", 300, marks=pytest.mark.slow),
        ("in_process", 60),
        ("processes", 300),
        pytest.param("ray", 300, marks=pytest.mark.slow),
    ],
)
def test_every_engine_groups_the_same_near_duplicates(staged, grouped, tmp_path, kind, rows_a_bucket):
    skip_without(kind)
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


# --- Retrieval: shards of the index, ranges of medoids, buckets of users

NEIGHBOURS, RECOMMENDATIONS = "retrieval.medoid_neighbours", "retrieval.recommendations"
INDEXES = {
    "exact": {"exact_up_to": 10**6},
    "one shard": {"exact_up_to": 0},
    "three shards": {"exact_up_to": 0, "shards": 3},
}
ONLY_EVEN = "pin_id % 2 = 0"


@pytest.fixture(scope="module")
def embedded(staged, tmp_path_factory):
    """The last day with its corpus and its medoids."""
    world = staged.copy(tmp_path_factory.mktemp("embedded") / "data")
    assert failures(world.run("near_duplicates", on(0), on(DAYS - 1))) == {}
    tables = ["corpus.excluded", "corpus.pins", *TABLES]
    assert failures(world.run("users_and_retrieval", on(DAYS - 1), only=tables)) == {}
    return world


@pytest.fixture(scope="module")
def indexed(embedded, tmp_path_factory):
    """Of each way to search, the world with its index. Read-only: copy it."""
    worlds = {}
    for name, index in INDEXES.items():
        worlds[name] = embedded.copy(tmp_path_factory.mktemp("indexed") / "data", settings_with(index))
        result = worlds[name].run("users_and_retrieval", on(DAYS - 1), only=["retrieval.hnsw_index"])
        assert failures(result) == {}
    return worlds


@pytest.fixture(scope="module")
def retrieve(indexed, tmp_path_factory):
    """Runs retrieval with some index and engine, of equal ones once: the rows, and how many users waited."""

    @functools.cache
    def retrieve(index, condition="", **engine):
        settings = settings_with(INDEXES[index], condition, **engine)
        world = indexed[index].copy(tmp_path_factory.mktemp("retrieved") / "data", settings)
        # In this process with two threads; workers have one.
        with threadpool_limits(2):
            result = world.run("users_and_retrieval", on(DAYS - 1), only=[NEIGHBOURS, RECOMMENDATIONS])
        assert failures(result) == {}
        assert scratch(world) == []
        [event] = result.asset_materializations_for_node("retrieval__recommendations")
        waited = event.metadata["users for whom more neighbours were searched"].value
        return (
            {
                table: world.read(f"FROM {table} WHERE dt = $day", day=on(DAYS - 1))
                for table in (NEIGHBOURS, RECOMMENDATIONS)
            },
            waited,
        )

    return retrieve


@pytest.mark.parametrize("rows_a_bucket", [pytest.param(200, marks=pytest.mark.slow), 800])
@pytest.mark.parametrize("kind", ["processes", pytest.param("ray", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "index", [pytest.param(name, marks=[] if name == "three shards" else pytest.mark.slow) for name in INDEXES]
)
def test_every_engine_retrieves_the_same_rows(retrieve, index, kind, rows_a_bucket):
    skip_without(kind)
    expected, waited = retrieve(index, kind="in_process", rows_a_bucket=rows_a_bucket)
    found, also_waited = retrieve(index, kind=kind, workers=2, rows_a_bucket=rows_a_bucket)
    for table, rows in found.items():
        assert len(rows) > 50
        assert rows.equals(expected[table]), table
    assert waited == also_waited > 5


@pytest.mark.parametrize(
    "index", [pytest.param(name, marks=[] if name == "three shards" else pytest.mark.slow) for name in INDEXES]
)
def test_buckets_make_no_difference_to_what_is_retrieved(retrieve, index):
    (some, waited), (few, also_waited), (one, _) = (
        retrieve(index, kind="in_process", rows_a_bucket=rows) for rows in (200, 800, 10**9)
    )
    assert waited == also_waited
    for table, rows in one.items():
        for others in (some[table], few[table]):
            # Products of matrices of other shapes may be rounded otherwise.
            assert_frame_equal(others, rows, check_exact=False, rel_tol=0, abs_tol=1e-6)


@pytest.mark.slow
def test_a_condition_holds_wherever_kernels_run(retrieve):
    engine = {"kind": "processes", "workers": 2, "rows_a_bucket": 800}
    expected, _ = retrieve("three shards", ONLY_EVEN, kind="in_process", rows_a_bucket=800)
    found, _ = retrieve("three shards", ONLY_EVEN, **engine)
    unrestricted, _ = retrieve("three shards", **engine)
    for table, rows in found.items():
        assert rows.equals(expected[table]), table
    assert (found[RECOMMENDATIONS]["pin_id"] % 2 == 0).all()
    assert (found[NEIGHBOURS]["pin_ids"].explode() % 2 == 0).all()
    assert set(found[RECOMMENDATIONS]["user_id"]) == set(unrestricted[RECOMMENDATIONS]["user_id"])


def test_three_shards_find_no_less_than_one(retrieve):
    lists = {
        index: dict(
            retrieve(index, kind="in_process", rows_a_bucket=800)[0][NEIGHBOURS]
            .select("medoid_pin_id", "pin_ids")
            .rows()
        )
        for index in INDEXES
    }
    recall = {
        index: np.mean([len(set(pins) & set(own[medoid])) / len(pins) for medoid, pins in lists["exact"].items()])
        for index, own in lists.items()
    }
    assert recall["three shards"] >= recall["one shard"] > 0.95
    assert {medoid: len(pins) for medoid, pins in lists["three shards"].items()} == {
        medoid: len(pins) for medoid, pins in lists["exact"].items()
    }


def test_an_index_of_three_shards_has_three_rows_whose_files_share_the_corpus(indexed):
    world = indexed["three shards"]
    rows = world.read("FROM retrieval.hnsw_index WHERE dt = $day ORDER BY shard", day=on(DAYS - 1))
    assert rows["shard"].to_list() == [0, 1, 2]
    assert rows["pins"].sum() == len(world.partition("corpus.pins", on(DAYS - 1)))
    assert rows["pins"].min() > 0.2 * rows["pins"].sum()
    assert rows["path"].n_unique() == 3


FAULTS = {
    "kernel fails": "{kernel} failed 4 times and was given up: MemoryError: no more",
    "receipt lies": "rows, its receipt says",
    "owner is lost": "{lost}",
    "row comes twice": "more than once: nothing is written",
    "rank is missing": "s of user_id",
}


@pytest.fixture(scope="module")
def retrieved(indexed, tmp_path_factory):
    """The last day with its retrieval, by three shards. Read-only: copy it."""
    settings = settings_with(INDEXES["three shards"], kind="in_process", rows_a_bucket=400)
    world = indexed["three shards"].copy(tmp_path_factory.mktemp("to_break") / "data", settings)
    assert failures(world.run("users_and_retrieval", on(DAYS - 1), only=[NEIGHBOURS, RECOMMENDATIONS])) == {}
    return world


RETRIEVAL_KERNELS = [
    (NEIGHBOURS, "find_neighbours", "rows of bucket 000001-0000, which has"),
    (NEIGHBOURS, "merge_neighbours", "rows of bucket 000001, which has"),
    (RECOMMENDATIONS, "recommend_bucket", "count(DISTINCT user_id) of the results is"),
]


@pytest.mark.parametrize(
    ("table", "kernel", "lost", "fault"),
    [
        (*of_kernel, fault)
        for of_kernel in RETRIEVAL_KERNELS
        for fault in FAULTS
        # Neighbours have no rank.
        if fault != "rank is missing" or of_kernel[0] == RECOMMENDATIONS
    ],
)
def test_retrieval_that_cannot_be_made_stays_as_it_was(retrieved, tmp_path, monkeypatch, table, kernel, lost, fault):
    world, day = retrieved.copy(tmp_path / "data"), on(DAYS - 1)
    before = world.read(f"FROM {table} WHERE dt = $day", day=day)
    ledger = world.read("FROM operations.partitions WHERE table_name = $table", table=table)
    real, calls = getattr(retrieval_kernels, kernel), 0

    def faulty(source, destination, parameters):
        nonlocal calls
        calls += 1
        if fault == "kernel fails":
            raise MemoryError("no more")
        made = real(source, destination, parameters)
        if not source.name.startswith("000001"):
            return made
        frame, metadata = pl.read_parquet(destination), pl.read_parquet_metadata(destination)
        if fault == "owner is lost":
            frame = frame.filter(pl.col(frame.columns[0]) != frame[0, 0])
        elif fault == "row comes twice":
            frame = pl.concat([frame[:1], frame[:1], frame[2:]])
        elif fault == "rank is missing":
            frame = frame[1:]
        frame.write_parquet(destination, metadata=metadata)
        return len(frame) + (fault == "receipt lies")

    monkeypatch.setattr(retrieval_kernels, kernel, faulty)
    [message] = failures(world.run("users_and_retrieval", day, only=[table])).values()
    if (kernel, fault) == ("find_neighbours", "row comes twice"):
        assert "000001-0000.parquet is not of the medoids of" in message
    else:
        assert FAULTS[fault].format(kernel=kernel, lost=lost) in message
    assert calls
    assert world.read(f"FROM {table} WHERE dt = $day", day=day).equals(before)
    assert world.read("FROM operations.partitions WHERE table_name = $table", table=table).equals(ledger)
    assert scratch(world) == []


# --- The evaluation: buckets of users that are judged

JUDGED = (
    "evaluation.calibration_trials",
    "evaluation.retrieval_users",
    "evaluation.variety",
    "evaluation.ranking_users",
    "evaluation.diversity",
    "evaluation.online_agreement",
)


@pytest.fixture(scope="module")
def to_judge(embedded, tmp_path_factory):
    """What the evaluation of the last day reads, with an index that is searched. Read-only."""
    world = embedded.copy(tmp_path_factory.mktemp("to_judge") / "data", settings_with(INDEXES["one shard"]))
    assert failures(world.run("users_and_retrieval", on(DAYS - 2))) == {}
    return world


@pytest.fixture(scope="module")
def judge(to_judge, tmp_path_factory):
    """Runs the evaluation of the last day; of equal engines and buckets once."""

    @functools.cache
    def judge(users_a_bucket, exact_up_to=0, **engine):
        settings = settings_with(INDEXES["one shard"], **engine)
        settings = settings.model_copy(
            update={"evaluation": settings.evaluation.model_copy(update={"exact_up_to": exact_up_to, "seeds": 2})}
        )
        world = to_judge.copy(tmp_path_factory.mktemp("judged") / "data", settings)
        with pytest.MonkeyPatch.context() as patch, threadpool_limits(2):
            patch.setattr("pinnersage_assets.lineage.evaluation.knowledge._USERS_A_BUCKET", users_a_bucket)
            assert failures(world.run("daily", on(DAYS - 1), only=JUDGED)) == {}
        assert scratch(world) == []
        return {table: world.partition(table, on(DAYS - 1)) for table in JUDGED}

    return judge


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["processes", "ray"])
def test_every_engine_judges_the_same(judge, kind):
    skip_without(kind)
    expected = judge(3, kind="in_process")
    found = judge(3, kind=kind, workers=2)
    for table, rows in found.items():
        assert len(rows) > 5, table
        assert rows.equals(expected[table]), table
    # In several buckets.
    assert found["evaluation.retrieval_users"]["user_id"].n_unique() > 6


@pytest.mark.slow
def test_buckets_make_no_difference_to_what_is_judged(judge):
    """Searched exactly: how deep an index is searched depends on what else is searched with it."""
    some, one = judge(3, 10**6, kind="in_process"), judge(10**6, 10**6, kind="in_process")
    for table, rows in one.items():
        found, rows = (
            frame.filter(pl.col("model") != BY_INDEX) if "model" in frame.columns else frame
            for frame in (some[table], rows)
        )
        assert_frame_equal(found, rows, check_exact=False, rel_tol=0, abs_tol=1e-6)
