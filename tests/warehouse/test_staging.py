"""What the SQL of `dbt_like_sql/staging` accepts and refuses, on raw rows that are made for it."""

import datetime
import json
import math

import dagster as dg
import duckdb
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.dimensions import embedding_dimensions
from pinnersage_assets.warehouse.partitions import PartitionIOManager, replace_partitions
from pinnersage_assets.warehouse.sql_assets import sql_asset
from pinnersage_assets.warehouse.sql_models import load_sql_models
from pinnersage_assets.warehouse.tables import all_tables

Day = datetime.date
DAYS = [Day(2026, 3, day) for day in (1, 2, 3)]
SOURCES = ["actions", "impressions", "board_pins", "pins"]
STAGING = [*(f"staging.{source}" for source in SOURCES), "staging.rejected"]
NAN, INF = math.nan, math.inf
_POLARS = {
    "BIGINT": pl.Int64,
    "VARCHAR": pl.String,
    "TIMESTAMP": pl.Datetime("us"),
    "DATE": pl.Date,
    "FLOAT[]": pl.List(pl.Float32),
    "INTEGER": pl.Int32,
    "FLOAT": pl.Float32,
}


def at(day: Day, hour: float = 12) -> datetime.datetime:
    return datetime.datetime.combine(day, datetime.time()) + datetime.timedelta(hours=hour)


def raw_rows(table: str, rows: list[dict]) -> pl.DataFrame:
    schema = {column.name: _POLARS[column.type] for column in all_tables()[table].columns}
    return pl.DataFrame(rows, schema=schema)


def action(day: Day = DAYS[0], **values) -> dict:
    return {"dt": day, "user_id": 1, "pin_id": 2, "action": "repin", "ts": at(day), "file": "a.parquet"} | values


def impression(day: Day = DAYS[0], **values) -> dict:
    return {"dt": day, "user_id": 1, "pin_id": 2, "ts": at(day), "file": "i.parquet"} | values


def save(day: Day = DAYS[0], **values) -> dict:
    return {"dt": day, "board_id": 3, "user_id": 1, "pin_id": 2, "ts": at(day), "file": "b.parquet"} | values


def pin(day: Day = DAYS[0], **values) -> dict:
    return {"dt": day, "pin_id": 2, "created_at": at(day), "embedding": [3.0, 4.0], "file": "p.parquet"} | values


class Staged:
    """Raw rows of some days, and what staging made of them."""

    def __init__(self, runs=(DAYS,), **came) -> None:
        self.connection = duckdb.connect(":memory:", config={"python_enable_replacements": False})
        self.connection.execute("SET TimeZone = 'UTC'")
        for days in runs:
            self.run(days, **came)

    def run(self, days: list[Day], **came) -> None:
        """What a run does with those of the rows, by source, that are of its days."""
        for source in SOURCES:
            rows = raw_rows(f"raw.{source}", list(came.pop(source, ())))
            self._replace(f"raw.{source}", days, rows.filter(pl.col("dt").is_in(list(days))))
        assert not came
        for table in STAGING:
            self._replace(table, days, self._computed(table, days))

    def _computed(self, table: str, days: list[Day]) -> pl.DataFrame:
        dimensions = embedding_dimensions(self.connection)
        variables = {"first_dt": days[0], "last_dt": days[-1], "dimensions": dimensions}
        return self.connection.sql(load_sql_models()[table].render(variables)).pl()

    def _replace(self, table: str, days: list[Day], rows: pl.DataFrame) -> None:
        replace_partitions(self.connection, all_tables()[table], list(days), rows, run_id="run")

    def read(self, query: str) -> list[tuple]:
        return self.connection.execute(query).fetchall()

    def accepted(self, table: str, columns: str) -> list[tuple]:
        return self.read(f"SELECT {columns} FROM staging.{table} ORDER BY ALL")

    def reasons(self, source: str) -> list[str]:
        return [
            reason
            for (reason,) in self.read(f"SELECT reason FROM staging.rejected WHERE source = '{source}' ORDER BY 1")
        ]

    def rejected_row(self) -> dict:
        [(row,)] = self.read("SELECT row FROM staging.rejected")
        return json.loads(row)


# Actions, impressions and boards.

NULLS_AND_TIMES = [
    ({"user_id": None}, "user_id is null"),
    ({"pin_id": None}, "pin_id is null"),
    ({"pin_id": -1}, "pin_id -1 is reserved"),
    ({"ts": None}, "ts is null"),
    ({"ts": at(DAYS[0], -0.001)}, "ts is before the day of its partition"),
    ({"ts": at(DAYS[0], 24)}, "ts is after the day of its partition"),
]


@pytest.mark.parametrize(("fault", "reason"), [*NULLS_AND_TIMES, ({"action": None}, "action is null")])
def test_an_action_with_a_fault_is_refused(fault, reason):
    staged = Staged(actions=[action(), action(**({"user_id": 7} | fault))])
    assert staged.accepted("actions", "user_id, pin_id, action, ts") == [(1, 2, "repin", at(DAYS[0]))]
    assert staged.reasons("actions") == [reason]


@pytest.mark.parametrize(("fault", "reason"), NULLS_AND_TIMES)
def test_an_impression_with_a_fault_is_refused(fault, reason):
    staged = Staged(impressions=[impression(), impression(**({"user_id": 7} | fault))])
    assert staged.accepted("impressions", "user_id, pin_id, ts") == [(1, 2, at(DAYS[0]))]
    assert staged.reasons("impressions") == [reason]


@pytest.mark.parametrize(("fault", "reason"), [*NULLS_AND_TIMES, ({"board_id": None}, "board_id is null")])
def test_a_save_with_a_fault_is_refused(fault, reason):
    staged = Staged(board_pins=[save(), save(**({"user_id": 7} | fault))])
    assert staged.accepted("board_pins", "board_id, user_id, pin_id, ts") == [(3, 1, 2, at(DAYS[0]))]
    assert staged.reasons("board_pins") == [reason]


def test_the_bounds_of_a_day_belong_to_it():
    times = [at(DAYS[0], 0), at(DAYS[1], 0) - datetime.timedelta(microseconds=1)]
    made = {"actions": action, "impressions": impression, "board_pins": save}
    staged = Staged(**{source: [make(ts=ts) for ts in times] for source, make in made.items()})
    for source in made:
        assert staged.accepted(source, "ts") == [(ts,) for ts in times]


def test_of_exact_copies_one_stays():
    same = [action(file=name) for name in ("a", "b", None)]
    others = [action(action="click"), action(user_id=9), action(pin_id=9), action(ts=at(DAYS[0], 13)), action(DAYS[1])]
    staged = Staged(actions=same + others, impressions=[impression(), impression(), impression(pin_id=9)])
    assert len(staged.accepted("actions", "ts")) == 1 + len(others)
    assert staged.reasons("actions") == ["duplicate of another row of the day"] * 2
    assert len(staged.accepted("impressions", "ts")) == 2
    assert staged.reasons("impressions") == ["duplicate of another row of the day"]


def test_a_pin_may_be_saved_again_but_not_at_the_same_moment_to_the_same_board():
    others = [save(board_id=9), save(user_id=9), save(pin_id=9), save(ts=at(DAYS[0], 13)), save(DAYS[1])]
    staged = Staged(board_pins=[save(), save(file=None), *others])
    assert len(staged.accepted("board_pins", "ts")) == 1 + len(others)
    assert staged.reasons("board_pins") == ["duplicate of another row of the day"]


def test_an_action_on_a_pin_that_nobody_knows_stays():
    assert Staged(actions=[action(pin_id=10**15)]).accepted("actions", "pin_id") == [(10**15,)]


def test_ids_may_be_negative_and_large():
    ids = [-(2**63), -2, 0, 2**63 - 1]
    staged = Staged(actions=[action(pin_id=i) for i in ids], pins=[pin(pin_id=i) for i in ids])
    assert staged.accepted("actions", "pin_id") == staged.accepted("pins", "pin_id") == [(i,) for i in ids]


# Pins.


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"pin_id": None}, "pin_id is null"),
        ({"pin_id": -1}, "pin_id -1 is reserved"),
        ({"created_at": None}, "created_at is null"),
        ({"created_at": at(DAYS[0], 24)}, "created_at is after the day of its partition"),
        ({"embedding": None}, "embedding is null"),
        ({"embedding": []}, "embedding has length 0, not 2"),
        ({"embedding": [1.0]}, "embedding has length 1, not 2"),
        ({"embedding": [1.0, 2.0, 3.0]}, "embedding has length 3, not 2"),
        ({"embedding": [1.0, None]}, "embedding holds a null"),
        ({"embedding": [None, None]}, "embedding holds a null"),
        ({"embedding": [NAN, 1.0]}, "embedding holds NaN or infinity"),
        ({"embedding": [INF, 1.0]}, "embedding holds NaN or infinity"),
        ({"embedding": [1.0, -INF]}, "embedding holds NaN or infinity"),
        ({"embedding": [0.0, -0.0]}, "embedding is all zero"),
    ],
)
def test_a_pin_with_a_fault_is_refused(fault, reason):
    staged = Staged(pins=[pin(), pin(pin_id=7), pin(**({"pin_id": 8} | fault))])
    assert staged.accepted("pins", "pin_id") == [(2,), (7,)]
    assert staged.reasons("pins") == [reason]


def test_a_pin_created_long_ago_is_accepted_with_its_optional_columns():
    optional = {"title": "T", "category": "C", "image_url": "U", "width": 3, "height": 4, "text_fraction": 0.5}
    staged = Staged(pins=[pin(created_at=at(Day(2001, 1, 1)), **optional)])
    assert staged.accepted("pins", ", ".join(optional)) == [tuple(optional.values())]


KNOWN = "the pin is known already, and its embedding is fixed"


@pytest.mark.parametrize("runs", [(DAYS,), tuple([day] for day in DAYS)], ids=["one range", "day by day"])
def test_the_first_usable_row_of_a_pin_wins(runs):
    staged = Staged(
        pins=[
            pin(embedding=[0.0, 1.0]),
            pin(embedding=[1.0, 0.0]),
            pin(DAYS[1], embedding=[1.0, 0.0]),
            pin(DAYS[0], pin_id=3, embedding=[NAN, 0.0]),
            pin(DAYS[0], pin_id=3, embedding=None),
            pin(DAYS[1], pin_id=3, embedding=[1.0, 0.0]),
            pin(DAYS[2], pin_id=3, embedding=[0.0, 1.0]),
        ],
        runs=runs,
    )
    assert staged.accepted("pins", "dt, pin_id, embedding") == [
        (DAYS[0], 2, (0.0, 1.0)),
        (DAYS[1], 3, (1.0, 0.0)),
    ]
    assert staged.reasons("pins") == ["embedding holds NaN or infinity", "embedding is null", KNOWN, KNOWN, KNOWN]


def test_a_pin_is_known_whether_or_not_its_raw_rows_are_there_still():
    staged = Staged(pins=[pin(embedding=[0.0, 1.0])], runs=[DAYS[:1]])
    staged.connection.execute("DELETE FROM raw.pins")
    staged.run(DAYS[1:], pins=[pin(DAYS[1], embedding=[1.0, 0.0]), pin(DAYS[2], pin_id=3)])
    assert staged.accepted("pins", "dt, pin_id, embedding") == [
        (DAYS[0], 2, (0.0, 1.0)),
        (DAYS[2], 3, pytest.approx((0.6, 0.8))),
    ]
    assert staged.reasons("pins") == [KNOWN]


def test_of_two_usable_rows_of_a_day_the_first_in_order_of_arrival_wins():
    vectors = [[math.cos(angle), math.sin(angle)] for angle in range(50)]
    staged = Staged(pins=[pin(pin_id=1 + number % 2, embedding=vector) for number, vector in enumerate(vectors)])
    kept = [vector for (vector,) in staged.accepted("pins", "embedding")]
    assert np.allclose(sorted(kept), sorted(vectors[:2]), atol=1e-6)


def embeddings(staged: Staged, n: int) -> np.ndarray:
    frame = staged.connection.sql("SELECT embedding FROM staging.pins ORDER BY pin_id").pl()
    assert frame.schema["embedding"] == pl.Array(pl.Float32, n)
    return frame["embedding"].to_numpy()


def test_unit_vectors_keep_their_bits():
    vectors = np.random.default_rng(0).standard_normal((200, 48)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    staged = Staged(pins=[pin(pin_id=number, embedding=vector.tolist()) for number, vector in enumerate(vectors)])
    assert np.array_equal(embeddings(staged, 48).view(np.uint32), vectors.view(np.uint32))


def test_other_vectors_are_normalised_whatever_their_length():
    directions = np.random.default_rng(1).standard_normal((7, 48))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    scales = np.array([1e30, 1e38, 1e-30, 1e-36, 1.00001, 0.5, 123.0])[:, None]
    vectors = (directions * scales).astype(np.float32)
    staged = Staged(pins=[pin(pin_id=number, embedding=vector.tolist()) for number, vector in enumerate(vectors)])
    found = embeddings(staged, 48).astype(np.float64)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert np.allclose(found, directions, atol=2e-6)


def test_a_vector_of_the_smallest_numbers_is_normalised():
    assert Staged(pins=[pin(embedding=[0.0, 1e-45])]).accepted("pins", "embedding") == [((0.0, 1.0),)]


# Rows that are refused, as JSON.

TEXT = 'a "quoted" \\ text\nwith ünïcödé 🙂, \t and \x01'


def test_a_refused_action_is_kept_as_it_came():
    row = Staged(actions=[action(user_id=None, pin_id=2**62, action=TEXT, file=None)]).rejected_row()
    assert row == {"user_id": None, "pin_id": 2**62, "action": TEXT, "ts": str(at(DAYS[0])), "file": None}


def test_a_refused_impression_is_kept_as_it_came():
    ts = at(DAYS[1]).replace(microsecond=123456)
    row = Staged(impressions=[impression(user_id=-5, ts=ts, file=TEXT)]).rejected_row()
    assert row == {"user_id": -5, "pin_id": 2, "ts": str(ts), "file": TEXT}


def test_a_refused_save_is_kept_as_it_came():
    row = Staged(board_pins=[save(board_id=-(2**63), user_id=None, file=TEXT)]).rejected_row()
    assert row == {"board_id": -(2**63), "user_id": None, "pin_id": 2, "ts": str(at(DAYS[0])), "file": TEXT}


def test_a_refused_pin_is_kept_as_it_came():
    odd = {"title": TEXT, "category": None, "image_url": "u", "width": -1, "height": 7, "text_fraction": NAN}
    staged = Staged(pins=[pin(), pin(embedding=[NAN, None, INF, 0.1, 1e-30], **odd)])
    row = staged.rejected_row()
    assert row | odd == row | {"text_fraction": NAN}
    assert (row["pin_id"], row["created_at"], row["file"]) == (2, str(at(DAYS[0])), "p.parquet")
    assert row["text_fraction"] == "nan"
    values = row["embedding"].strip("[]").split(", ")
    assert [math.isnan(float(values[0])), values[1], float(values[2])] == [True, "NULL", INF]
    assert [np.float32(value) for value in values[3:]] == [np.float32(0.1), np.float32(1e-30)]


# Any rows.

ids = st.sampled_from([None, -1, 0, 1, 2])
few_days = st.sampled_from(DAYS)
offsets = st.sampled_from([None, -0.5, 0, 12, 23.5, 24])
vectors = st.none() | st.lists(st.sampled_from([0.0, 1.0, -2.5, 1e30, 1e-30, NAN, INF, None]), max_size=3)


@st.composite
def events(draw, make):
    day, hour = draw(few_days), draw(offsets)
    ts = None if hour is None else at(day, hour)
    more = {action: {"action": st.sampled_from([None, "repin", "hide"])}, save: {"board_id": ids}}
    extra = {name: draw(values) for name, values in more.get(make, {}).items()}
    return make(day, user_id=draw(ids), pin_id=draw(ids), ts=ts, file=draw(st.sampled_from([None, "a"])), **extra)


@st.composite
def some_pins(draw):
    day, hour = draw(few_days), draw(offsets)
    created_at = None if hour is None else at(day, hour)
    return pin(day, pin_id=draw(ids), created_at=created_at, embedding=draw(vectors))


@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    actions=st.lists(events(action), max_size=15),
    impressions=st.lists(events(impression), max_size=15),
    board_pins=st.lists(events(save), max_size=15),
    pins=st.lists(some_pins(), max_size=25),
)
def test_nothing_is_lost_and_day_by_day_is_the_same_as_a_range(**came):
    found = []
    for runs in ((DAYS,), tuple([day] for day in DAYS)):
        staged = Staged(**came, runs=runs)
        for source, rows in came.items():
            for day in DAYS:
                kept = staged.read(f"SELECT count(*) FROM staging.{source} WHERE dt = '{day}'")[0][0]
                refused = staged.read(
                    f"SELECT count(*) FROM staging.rejected WHERE dt = '{day}' AND source = '{source}'"
                )[0][0]
                assert kept + refused == sum(row["dt"] == day for row in rows)
        for (row,) in staged.read("SELECT row FROM staging.rejected"):
            assert isinstance(json.loads(row), dict)
        [(repeated,)] = staged.read("SELECT count(*) - count(DISTINCT pin_id) FROM staging.pins")
        assert repeated == 0
        # Of an embedding that is of no use, the reason also depends on n, which a later day of the range may decide.
        rejected = staged.read(
            "SELECT dt, source, row::VARCHAR, CASE WHEN reason LIKE 'embedding %' THEN 'embedding' ELSE reason END "
            "FROM staging.rejected ORDER BY ALL"
        )
        found.append([rejected, *(staged.read(f"FROM {table} ORDER BY ALL") for table in STAGING[:-1])])
        staged.connection.close()
    assert found[0] == found[1]


# The same through Dagster.


def test_the_assets_of_the_models_write_what_the_models_say(tmp_path):
    data = tmp_path / "it's [a] dt=2020-01-01"
    warehouse = Warehouse(database=str(data / "warehouse" / "pinnersage.duckdb"), published="")
    raw = {
        "raw.actions": [action(), action(user_id=None)],
        "raw.impressions": [],
        "raw.board_pins": [save(DAYS[1], board_id=None)],
        "raw.pins": [pin(DAYS[1]), pin(DAYS[2])],
    }
    with warehouse.get_connection() as connection:
        for table, rows in raw.items():
            replace_partitions(connection, all_tables()[table], DAYS, raw_rows(table, rows), run_id="raw")
    daily = dg.DailyPartitionsDefinition(DAYS[0].isoformat())
    same_day = dg.TimeWindowPartitionMapping()
    models = load_sql_models()
    assets = [
        sql_asset(
            models[table],
            daily,
            {
                "same_day": same_day,
                "history": same_day,
                "earlier": dg.TimeWindowPartitionMapping(start_offset=-1, end_offset=-1),
            },
            dg.BackfillPolicy.single_run(),
            lambda context: [Day.fromisoformat(key) for key in context.partition_keys],
        )
        for table in STAGING
    ]
    bounds = {"start": DAYS[0], "end": DAYS[-1]}
    result = dg.materialize(
        assets,
        resources={"warehouse": warehouse, "io_manager": PartitionIOManager(warehouse=warehouse)},
        tags={f"dagster/asset_partition_range_{name}": day.isoformat() for name, day in bounds.items()},
        instance=dg.DagsterInstance.ephemeral(),
    )
    assert result.success
    assert warehouse.read("SELECT dt, embedding FROM staging.pins").rows() == [(DAYS[1], pytest.approx([0.6, 0.8]))]
    assert warehouse.read("SELECT dt, source FROM staging.rejected ORDER BY ALL").rows() == [
        (DAYS[0], "actions"),
        (DAYS[1], "board_pins"),
        (DAYS[2], "pins"),
    ]
    ledger = "SELECT dt, rows, code_version FROM operations.partitions WHERE table_name = 'staging.actions' ORDER BY dt"
    version = models["staging.actions"].version
    assert warehouse.read(ledger).rows() == [(DAYS[0], 1, version), (DAYS[1], 0, version), (DAYS[2], 0, version)]
    assert list((data / "warehouse" / "scratch").iterdir()) == []
