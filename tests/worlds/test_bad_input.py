"""Bad and missing input through the real graph: a clear error or a rejected row, and the rest goes on."""

import datetime
import json
import math
import re

import duckdb
import polars as pl
import pytest
from world import World, failures, on, small_settings

from pinnersage_assets.model.variants import CONTROLS, VARIANTS
from pinnersage_assets.warehouse.tables import all_tables

NOON = datetime.datetime(2026, 1, 1, 12)
ONE_DAY = datetime.timedelta(days=1)
ASSETS = [table for table in all_tables() if table != "operations.partitions"]


def at(offset, hours=0):
    return NOON + offset * ONE_DAY + datetime.timedelta(hours=hours)


def action_frame(*rows):
    schema = {"user_id": pl.Int64, "pin_id": pl.Int64, "action": pl.String, "ts": pl.Datetime("us")}
    return pl.DataFrame(rows, schema=schema, orient="row")


def pin_frame(*rows):
    schema = {"pin_id": pl.Int64, "created_at": pl.Datetime("us"), "embedding": pl.List(pl.Float32)}
    return pl.DataFrame(rows, schema=schema, orient="row")


def impression_frame(*rows):
    return pl.DataFrame(rows, schema={"user_id": pl.Int64, "pin_id": pl.Int64, "ts": pl.Datetime("us")}, orient="row")


def board_pin_frame(*rows):
    ids = dict.fromkeys(["board_id", "user_id", "pin_id"], pl.Int64)
    return pl.DataFrame(rows, schema={**ids, "ts": pl.Datetime("us")}, orient="row")


def axis(n, length=2.0):
    return tuple(length * (i == n) for i in range(4))


def between(a, b):
    return tuple(float(i in (a, b)) for i in range(4))


GOOD_PINS = [(pin, at(0), vector) for pin, vector in enumerate([*map(axis, range(4)), between(0, 1), between(2, 3)], 1)]
BAD_PINS = {
    (None, at(0), axis(0)): "pin_id is null",
    (-1, at(0), axis(0)): "pin_id -1 is reserved",
    (11, None, axis(0)): "created_at is null",
    (12, at(1), axis(0)): "created_at is after the day of its partition",
    (13, at(0), None): "embedding is null",
    (14, at(0), (1.0, 0.0, 0.0)): "embedding has length 3, not 4",
    (15, at(0), ()): "embedding has length 0, not 4",
    (16, at(0), (1.0, None, 0.0, 0.0)): "embedding holds a null",
    (17, at(0), (1.0, math.nan, 0.0, 0.0)): "embedding holds NaN or infinity",
    (18, at(0), (math.inf, 0.0, 0.0, 0.0)): "embedding holds NaN or infinity",
    (19, at(0), (0.0, 0.0, 0.0, 0.0)): "embedding is all zero",
    (1, at(0), (0.0, 0.0, 0.0, 1.0)): "the pin is known already, and its embedding is fixed",
}
GOOD_ACTIONS = [
    (1, 1, "repin", at(0)),
    (1, 1, "repin", at(0, 1)),
    (1, 3, "click", at(0)),
    (2, 2, "repin", at(0, 11)),  # a user with one action
    (3, 999, "repin", at(0)),  # on a pin that never lands
    (4, 999, "repin", at(0)),
    (4, 4, "click", at(0)),
    (5, 2, "hide", at(0)),
    *((6, pin, "click", at(0)) for pin in range(1, 7)),  # everything that there is
]
BAD_ACTIONS = {
    (None, 1, "repin", at(0)): "user_id is null",
    (1, None, "repin", at(0)): "pin_id is null",
    (1, -1, "repin", at(0)): "pin_id -1 is reserved",
    (1, 1, None, at(0)): "action is null",
    (1, 1, "repin", None): "ts is null",
    (1, 1, "repin", at(400)): "ts is after the day of its partition",
    (1, 1, "repin", datetime.datetime(2026, 1, 2)): "ts is after the day of its partition",
    (1, 1, "repin", datetime.datetime(2025, 12, 31, 23, 59, 59, 999999)): "ts is before the day of its partition",
    (1, 3, "click", at(0)): "duplicate of another row of the day",
}
BAD_IMPRESSIONS = {
    (None, 1, at(0)): "user_id is null",
    (1, None, at(0)): "pin_id is null",
    (1, 1, None): "ts is null",
    (1, 1, at(1)): "ts is after the day of its partition",
    (1, 1, at(-1)): "ts is before the day of its partition",
    (1, 1, at(0)): "duplicate of another row of the day",
}

BAD_BOARD_PINS = {
    (None, 1, 1, at(0)): "board_id is null",
    (8, None, 1, at(0)): "user_id is null",
    (8, 1, -1, at(0)): "pin_id -1 is reserved",
    (8, 1, 1, at(-1)): "ts is before the day of its partition",
    (8, 1, 1, at(0)): "duplicate of another row of the day",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Day 0 with every bad row, day 1 with an empty file and a folder that is missing, day 2 ordinary; read-only."""
    world = World.new(tmp_path_factory.mktemp("bad") / "data", small_settings(), kind="landing")
    world.land("pins", on(0), pin_frame(*GOOD_PINS, *BAD_PINS))
    world.land("actions", on(0), action_frame(*GOOD_ACTIONS, *BAD_ACTIONS))
    world.land("impressions", on(0), impression_frame((1, 1, at(0)), *BAD_IMPRESSIONS))
    world.land("board_pins", on(0), board_pin_frame((8, 1, 1, at(0)), (8, 1, 999, at(0)), *BAD_BOARD_PINS))
    world.land("pins", on(1), pin_frame((7, at(1), between(1, 2)), (2, at(1), axis(0))))
    world.land("actions", on(1), action_frame())
    world.land(
        "actions",
        on(2),
        action_frame((1, 7, "repin", at(2)), (2, 2, "repin", at(2)), (3, 1, "click", at(2)), (6, 999, "repin", at(2))),
    )
    for day in map(on, range(3)):
        assert failures(world.run("daily", day)) == {}
    return world


@pytest.mark.parametrize("day", range(3))
def test_the_whole_lineage_of_every_day_passes_and_is_published(world, day):
    assert {table: world.status(table, on(day)) for table in ASSETS} == dict.fromkeys(ASSETS, "passed")
    with duckdb.connect(str(world.data / "published" / "pinnersage.duckdb"), read_only=True) as connection:
        assert connection.sql(f"SELECT rows FROM operations.partitions WHERE dt = '{on(day)}'").fetchall()


def rejected(world, source):
    rows = world.partition("staging.rejected", on(0)).filter(source=source)
    return sorted((reason, str(json.loads(row).get("pin_id"))) for reason, row in rows.select("reason", "row").rows())


@pytest.mark.parametrize(
    ("source", "bad", "pin"),
    [
        ("actions", BAD_ACTIONS, 1),
        ("impressions", BAD_IMPRESSIONS, 1),
        ("board_pins", BAD_BOARD_PINS, 2),
        ("pins", BAD_PINS, 0),
    ],
)
def test_every_bad_row_is_rejected_with_its_reason_and_no_other(world, source, bad, pin):
    assert rejected(world, source) == sorted((reason, str(row[pin])) for row, reason in bad.items())


def test_a_rejected_row_can_be_traced_and_read(world):
    rows = world.partition("staging.rejected", on(0))
    for source, row in rows.select("source", "row").rows():
        assert json.loads(row)["file"] == f"{source}/dt={on(0)}/part-0.parquet"
    [nan] = [json.loads(row) for row in rows["row"] if json.loads(row).get("pin_id") == 17]
    assert nan["embedding"] == "[1.0, nan, 0.0, 0.0]"


def test_good_rows_are_all_there(world):
    actions = world.partition("staging.actions", on(0))
    assert sorted(actions.select("user_id", "pin_id", "action", "ts").rows()) == sorted(GOOD_ACTIONS)
    pins = world.partition("staging.pins", on(0))
    assert pins["pin_id"].to_list() == [1, 2, 3, 4, 5, 6]
    assert pins["embedding"].dtype == pl.Array(pl.Float32, 4)
    assert pins["embedding"].to_list()[1] == [0.0, 1.0, 0.0, 0.0]  # of unit length now
    assert world.partition("staging.impressions", on(0)).height == 1
    assert world.partition("staging.board_pins", on(0))["pin_id"].to_list() == [1, 999]
    # The other pin is not known.
    for day in map(on, range(3)):
        assert world.partition("graph.edges", day).select("pin_id", "board_id").rows() == [(1, 8)]


def test_a_known_pin_keeps_its_first_embedding(world):
    assert world.partition("staging.pins", on(1))["pin_id"].to_list() == [7]
    later = world.partition("staging.rejected", on(1))
    assert later["reason"].to_list() == ["the pin is known already, and its embedding is fixed"]


def test_users_are_clustered_by_what_is_known_of_them(world):
    sizes = {
        day: dict(world.partition("users.medoids", on(day)).group_by("user_id").agg(pl.sum("size")).rows())
        for day in range(3)
    }
    assert sizes[0] == sizes[1] == {1: 3, 2: 1, 4: 1, 6: 6}
    assert sizes[2] == {1: 4, 2: 2, 3: 1, 4: 1, 6: 6}
    recommended = world.partition("retrieval.recommendations", on(0))
    # All of the corpus but what the user did, since there is less than a share; nothing for who did everything.
    assert set(recommended["user_id"]) == {1, 2, 4}
    assert sorted(recommended.filter(user_id=2)["pin_id"]) == [1, 3, 4, 5, 6]
    hidden = world.read("SELECT user_id FROM users.clusters WHERE user_id = 5")
    assert hidden.is_empty()


def test_days_without_anything_to_judge_have_an_empty_evaluation(world):
    for day in range(2):
        assert world.partition("evaluation.retrieval_users", on(day)).is_empty()
        assert world.partition("evaluation.retrieval", on(day)).is_empty()
        assert world.partition("marts.retrieval_lifts", on(day)).is_empty()
    judged = world.partition("evaluation.retrieval_users", on(2))
    # User 2 did nothing new, and nothing is known of user 3.
    assert set(judged["user_id"]) == {1, 6}
    assert set(judged["model"]) == {*VARIANTS, *CONTROLS}
    assert set(judged["targets"]) == {1}
    # There is one pin left for user 6, and the one acted on is unknown. That pin is on no board.
    own = judged.filter(user_id=6)
    left = own.filter(pl.col("model") != "pixie").select("set_size", "relevant", "recalled")
    assert left.unique().rows() == [(1, 0, 0)]
    assert own.filter(model="pixie")["set_size"].to_list() == [0]


def test_engagement_has_a_row_for_a_day_on_which_nothing_happened(world):
    [row] = world.partition("marts.daily_engagement", on(1)).to_dicts()
    assert (row["users"], row["actions"], row["impressions"], row["actions_per_impression"]) == (0, 0, 0, None)


@pytest.mark.slow
def test_a_day_without_any_folder_is_an_ordinary_day(world, tmp_path):
    copy = world.copy(tmp_path / "data")
    assert failures(copy.run("daily", on(3))) == {}
    assert {table: copy.status(table, on(3)) for table in ASSETS} == dict.fromkeys(ASSETS, "passed")
    with duckdb.connect(str(copy.data / "published" / "pinnersage.duckdb"), read_only=True) as connection:
        assert connection.sql(f"SELECT rows FROM operations.partitions WHERE dt = '{on(3)}'").fetchall()
    clusters = [copy.partition("users.clusters", on(day)).select("user_id", "pin_id", "cluster") for day in (2, 3)]
    assert clusters[0].equals(clusters[1])
    for table in ("evaluation.retrieval_users", "evaluation.retrieval", "marts.retrieval_lifts"):
        assert copy.partition(table, on(3)).is_empty()
    [row] = copy.partition("marts.daily_engagement", on(3)).to_dicts()
    assert (row["users"], row["actions"], row["impressions"], row["actions_per_impression"]) == (0, 0, 0, None)


def test_an_hnsw_index_of_a_few_pins_recommends_what_exact_search_does(world, tmp_path):
    copy = world.copy(tmp_path / "data", small_settings(index={"exact_up_to": 0}))
    tables = ["retrieval.hnsw_index", "retrieval.medoid_neighbours", "retrieval.recommendations"]
    for day in map(on, (0, 2)):
        assert failures(copy.run("daily", day, only=tables)) == {}
        [row] = copy.read("FROM retrieval.hnsw_index WHERE dt = $day", day=day).to_dicts()
        assert (row["method"], row["pins"]) == ("hnsw", copy.partition("corpus.pins", day).height)
        assert (copy.data / row["path"]).is_file()
        assert copy.partition(tables[2], day).equals(world.partition(tables[2], day))


# --- From nothing


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """Day 0 without any data, day 1 with pins of which none may be recommended, day 2 with others; read-only."""
    world = World.new(tmp_path_factory.mktemp("begun") / "data", small_settings(), kind="landing")
    assert failures(world.run("daily", on(0))) == {}
    small = pl.lit(100, pl.Int32)
    world.land("pins", on(1), pin_frame(*GOOD_PINS[:2]).with_columns(width=small, height=small))
    world.land("actions", on(1), action_frame((1, 1, "repin", at(1))))
    assert failures(world.run("daily", on(1), only=[*UP_TO_RETRIEVAL])) == {}
    world.land("pins", on(2), pin_frame(*((pin, at(2), vector) for pin, _, vector in GOOD_PINS[2:])))
    world.land("actions", on(2), action_frame((1, 2, "repin", at(2)), (2, 3, "repin", at(2))))
    judged = ["evaluation.retrieval_users", "evaluation.retrieval"]
    assert failures(world.run("daily", on(2), only=[*UP_TO_RETRIEVAL, *judged])) == {}
    return world


UP_TO_RETRIEVAL = [t for t in ASSETS if t.startswith(("raw.", "staging.", "corpus.", "users.", "graph.", "retrieval."))]


def test_without_any_data_everything_is_empty_and_published(begun):
    rows = {table: begun.partition(table, on(0)).height for table in ASSETS}
    # What has a row a day, or a bin, has it of nothing too.
    filled = {"graph.snapshot", "retrieval.hnsw_index", "serving.snapshot", "marts.daily_engagement"}
    filled |= {"operations.clean_up", "operations.publications"}
    filled |= {f"evaluation.{name}" for name in ("protocol", "action_ages", "report")}
    assert {table for table, n in rows.items() if n} == filled
    assert "Nothing was judged on this day." in (begun.data / f"reports/dt={on(0)}/index.html").read_text()
    assert {begun.status(table, on(0)) for table in ASSETS} == {"passed"}
    assert (begun.data / "published" / "pinnersage.duckdb").exists()


def test_an_empty_corpus_recommends_nothing_and_is_judged(begun):
    assert begun.partition("corpus.pins", on(1)).is_empty()
    assert begun.partition("users.medoids", on(1)).height == 1
    assert begun.partition("retrieval.recommendations", on(1)).is_empty()
    judged = begun.partition("evaluation.retrieval_users", on(2))
    assert set(judged["user_id"]) == {1}
    assert judged.select("set_size", "targets", "relevant", "recalled").unique().rows() == [(0, 1, 0, 0)]
    assert begun.partition("evaluation.retrieval", on(2))["relevance"].unique().to_list() == [0.0]


def test_pins_that_come_later_are_as_good_as_if_they_had_been_there_from_the_start(begun):
    recommended = begun.partition("retrieval.recommendations", on(2))
    assert sorted(recommended.select("user_id", "pin_id").rows()) == [
        *((1, pin) for pin in (3, 4, 5, 6)),
        *((2, pin) for pin in (4, 5, 6)),
    ]


# --- Files that cannot be used


def break_file(path, fault):
    if fault == "truncated":
        path.write_bytes(path.read_bytes()[:-20])
    elif fault == "empty":
        path.write_bytes(b"")
    elif fault == "text":
        path.write_text("user_id,pin_id\n1,2\n")
    else:
        pl.read_parquet(path).pipe(fault).write_parquet(path)


@pytest.mark.parametrize(
    ("table", "fault", "message"),
    [
        ("actions", "truncated", "cannot be read as Parquet"),
        ("actions", "empty", r"is empty \(0 bytes\)"),
        ("pins", "text", "cannot be read as Parquet"),
        ("actions", lambda f: f.drop("ts"), "lacks the required column ts"),
        ("pins", lambda f: f.drop("embedding"), "lacks the required column embedding"),
        ("impressions", lambda f: f.drop("user_id"), "lacks the required column user_id"),
        ("actions", lambda f: f.with_columns(pl.col("pin_id").cast(pl.String)), "column pin_id is String and must be"),
        ("actions", lambda f: f.with_columns(pl.col("ts").cast(pl.String)), "column ts is String and must be"),
        ("pins", lambda f: f.with_columns(embedding=pl.lit("0.1 0.2")), "column embedding is String and must be"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_clear_error_and_old_partitions_stay(world, tmp_path, table, fault, message):
    copy = world.copy(tmp_path / "data")
    file = copy.landing / table / f"dt={on(0)}" / "part-0.parquet"
    break_file(file, fault)
    before = copy.partitions(on(0))
    result = copy.run("raw_and_staging", on(0), only=[f"raw.{table}", f"staging.{table}"])
    [(step, error)] = failures(result).items()
    assert step == f"raw__{table}"
    assert re.search(message, error)
    assert f"{table}/dt={on(0)}/part-0.parquet" in error
    assert {t: frame.equals(before[t]) for t, frame in copy.partitions(on(0)).items()} == dict.fromkeys(before, True)
    assert list((copy.data / "warehouse" / "scratch").iterdir()) == []
