import contextlib
import datetime
import os
import tracemalloc
from pathlib import Path

import dagster as dg
import duckdb
import numpy as np
import polars as pl
import pytest

from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.dimensions import UNKNOWN, embedding_dimensions
from pinnersage_assets.warehouse.partitions import (
    ParquetFiles,
    PartitionIOManager,
    expire_partitions,
    refuse_expired_inputs,
    replace_partitions,
)
from pinnersage_assets.warehouse.tables import Column, Table, all_tables

DAY = datetime.date(2026, 3, 1)
DAYS = [DAY + datetime.timedelta(offset) for offset in range(5)]
IMPRESSIONS = "raw.impressions"


def pins_by_day(warehouse: Warehouse) -> dict[datetime.date, list[int]]:
    rows = warehouse.read("SELECT dt, list(pin_id ORDER BY pin_id) FROM raw.impressions GROUP BY dt ORDER BY dt")
    return dict(rows.rows())


def test_a_write_replaces_exactly_its_days(warehouse, write, ledger, impressions):
    write(IMPRESSIONS, DAYS, pl.concat(impressions(n, dt=day) for n, day in enumerate(DAYS)), run_id="first")
    write(IMPRESSIONS, DAYS[1:3], pl.concat(impressions(10, 11, dt=day) for day in DAYS[1:3]), None, "second")
    assert pins_by_day(warehouse) == dict(zip(DAYS, [[0], [10, 11], [10, 11], [3], [4]], strict=True))
    runs = [("first", "passed"), ("second", "unchecked"), ("second", "unchecked"), ("first", "passed")]
    assert [row[2:] for row in ledger(IMPRESSIONS)] == [*runs, ("first", "passed")]
    assert [row[1] for row in ledger(IMPRESSIONS)] == [1, 2, 2, 1, 1]


def test_columns_are_matched_by_name(warehouse, write, impressions):
    rows = impressions(7, 8).with_columns(user_id=pl.lit(1, pl.Int64))
    write(IMPRESSIONS, DAY, rows.select("file", "ts", "pin_id", "user_id"))
    read = warehouse.read("SELECT user_id, pin_id FROM raw.impressions ORDER BY pin_id").rows()
    assert read == [(1, 7), (1, 8)]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: rows.drop("file"), r"raw\.impressions do not fit.*missing columns \['file'\]"),
        (lambda rows: rows.rename({"file": "path"}), r"missing columns \['file'\], unknown columns \['path'\]"),
        (lambda rows: rows.with_columns(dt=pl.lit(DAYS[1])), r"2 rows .* of other days \(2026-03-02 to 2026-03-02\)"),
        (lambda rows: rows.with_columns(dt=pl.lit(None, pl.Date)), "2 rows .* of other days"),
        (lambda rows: pl.concat([rows.with_columns(dt=pl.lit(day)) for day in DAYS[:2]]), "2 rows .* of other days"),
    ],
    ids=["missing", "unknown", "other day", "null day", "one day too many"],
)
@pytest.mark.parametrize("spooled", [False, True], ids=["frame", "files"])
def test_what_does_not_fit_is_refused_and_the_old_partition_stays(
    warehouse, write, ledger, impressions, spoil, message, spooled
):
    write(IMPRESSIONS, DAY, impressions(1, 2, 3), run_id="good")
    before = warehouse.read("FROM operations.partitions")
    rows = spoil(impressions(8, 9))
    with pytest.raises(ValueError, match=message):
        write(IMPRESSIONS, DAY, ParquetFiles.spool(warehouse, [rows]) if spooled else rows)
    assert pins_by_day(warehouse) == {DAY: [1, 2, 3]}
    assert warehouse.read("FROM operations.partitions").equals(before)


def test_a_value_that_does_not_fit_its_column_is_refused_and_the_old_partition_stays(warehouse, write, impressions):
    write(IMPRESSIONS, DAY, impressions(1))
    with pytest.raises(duckdb.ConversionException, match="not a number"):
        write(IMPRESSIONS, DAY, impressions(2).with_columns(pin_id=pl.lit("not a number")))
    assert pins_by_day(warehouse) == {DAY: [1]}


def test_a_connection_is_usable_after_a_refusal_and_takes_frames_and_files_in_turn(warehouse, impressions):
    table = all_tables()[IMPRESSIONS]
    with warehouse.get_connection() as connection:
        for number, fits in enumerate([True, True, False, True, False, True, True]):
            frame = impressions(number) if fits else impressions(number).drop("ts")
            rows = frame if number % 2 else ParquetFiles.spool(warehouse, [frame])
            with contextlib.nullcontext() if fits else pytest.raises(ValueError, match="ts"):
                replace_partitions(connection, table, [DAY], rows, run_id="run")
    assert pins_by_day(warehouse) == {DAY: [6]}


def test_a_failure_to_commit_is_told_as_it_is(warehouse, write, impressions):
    """DuckDB leaves no transaction to roll back then; saying so would hide the reason."""
    write(IMPRESSIONS, DAY, impressions(1))

    class FailsToCommit:
        def __init__(self, connection):
            self.connection = connection

        def __getattr__(self, name):
            return getattr(self.connection, name)

        def execute(self, query, *arguments):
            if query == "COMMIT":
                self.connection.execute("ROLLBACK")
                raise duckdb.IOException("disk is full")
            return self.connection.execute(query, *arguments)

    with warehouse.get_connection() as connection, pytest.raises(duckdb.IOException, match="disk is full"):
        replace_partitions(FailsToCommit(connection), all_tables()[IMPRESSIONS], [DAY], impressions(2), run_id="run")
    assert pins_by_day(warehouse) == {DAY: [1]}


def test_an_empty_frame_is_an_empty_partition(warehouse, write, ledger, impressions):
    write(IMPRESSIONS, DAY, impressions(1, 2))
    write(IMPRESSIONS, DAY, impressions(), run_id="empty")
    assert pins_by_day(warehouse) == {}
    assert ledger(IMPRESSIONS) == [(DAY, 0, "empty", "passed")]


def test_several_days_may_have_days_without_rows(warehouse, write, ledger, impressions):
    write(IMPRESSIONS, DAYS, pl.concat(impressions(1, 2, dt=day) for day in DAYS))
    write(IMPRESSIONS, DAYS[:3], pl.concat(impressions(5, dt=day) for day in (DAYS[0], DAYS[2])))
    assert pins_by_day(warehouse) == {DAYS[0]: [5], DAYS[2]: [5], DAYS[3]: [1, 2], DAYS[4]: [1, 2]}
    assert [rows for _, rows, _, _ in ledger(IMPRESSIONS)] == [1, 0, 1, 2, 2]


def test_what_was_never_written_is_an_empty_table(warehouse, write, impressions):
    write(IMPRESSIONS, DAY, impressions(1))
    for key in all_tables():
        warehouse.read(f"FROM {key}")
    assert warehouse.read("FROM users.medoids").is_empty()


ODD_FOLDERS = [
    'it\'s "quoted"',
    "with some spaces",
    "brackets [ab] {c,d}",
    "a*b",
    "dt=2025-01-01",
    "user_id=7",
    "ünï $x %20;--",
]


@pytest.mark.parametrize("name", ODD_FOLDERS)
def test_the_data_directory_may_have_any_name(tmp_path, impressions, name):
    data = tmp_path / name
    warehouse = Warehouse(database=str(data / "warehouse" / "pinnersage.duckdb"), published="")
    # What `brackets [ab]` and `a*b` would match as patterns.
    for decoy in ("brackets a c", "axxb"):
        (tmp_path / decoy).mkdir()
    files = ParquetFiles.spool(warehouse, [impressions(1, 2, dt=DAY), impressions(3, dt=DAY), impressions(dt=DAY)])
    with warehouse.get_connection() as connection:
        replace_partitions(connection, all_tables()[IMPRESSIONS], [DAY], files, run_id="run")
    assert pins_by_day(warehouse) == {DAY: [1, 2, 3]}
    assert warehouse.read("SELECT user_id FROM raw.impressions ORDER BY rowid")["user_id"].to_list() == [0, 1, 0]


def test_files_keep_the_order_of_their_frames(warehouse, write, impressions):
    frames = [impressions(*range(start, start + 1000), dt=DAY) for start in range(0, 20_000, 1000)]
    write(IMPRESSIONS, DAY, ParquetFiles.spool(warehouse, frames))
    read = warehouse.read("SELECT pin_id FROM raw.impressions ORDER BY rowid")
    assert read["pin_id"].to_list() == list(range(20_000))


def test_a_spool_that_fails_leaves_no_folder(warehouse, impressions):
    def frames():
        yield impressions(1)
        raise ArithmeticError("no more")

    with pytest.raises(ArithmeticError):
        ParquetFiles.spool(warehouse, frames())
    assert list(Path(warehouse.database).parent.glob("scratch/*")) == []


def test_what_killed_runs_left_behind_is_removed_after_a_week(warehouse, impressions):
    old, recent = (ParquetFiles.spool(warehouse, [impressions(1)]) for _ in range(2))
    week_ago = old.folder.stat().st_mtime - 8 * 24 * 3600
    os.utime(old.folder, (week_ago, week_ago))
    ParquetFiles.spool(warehouse, [])
    assert not old.folder.exists()
    assert recent.folder.exists()


# The length of embeddings.


def raw_pins(*vectors: list[float] | None, dt: datetime.date = DAY, first_id: int = 1) -> pl.DataFrame:
    columns = {column.name: pl.lit(None) for column in all_tables()["raw.pins"].columns}
    return pl.DataFrame({"embedding": pl.Series(vectors, dtype=pl.List(pl.Float32))}).select(
        **columns
        | {
            "dt": pl.lit(dt),
            "pin_id": pl.int_range(first_id, first_id + pl.len(), dtype=pl.Int64),
            "created_at": pl.lit(datetime.datetime.combine(dt, datetime.time(1))),
            "embedding": pl.col("embedding"),
        }
    )


def staging_pins(vectors: np.ndarray, first_id: int = 1) -> pl.DataFrame:
    columns = {column.name: pl.lit(None) for column in all_tables()["staging.pins"].columns if column.name != "dt"}
    return pl.DataFrame({"embedding": pl.Series(vectors, dtype=pl.Array(pl.Float32, vectors.shape[1]))}).select(
        **columns
        | {
            "pin_id": pl.int_range(first_id, first_id + pl.len(), dtype=pl.Int64),
            "created_at": pl.lit(datetime.datetime(2026, 1, 1)),
            "embedding": pl.col("embedding"),
        }
    )


def dimensions(warehouse: Warehouse) -> int:
    with warehouse.get_reader() as connection:
        return embedding_dimensions(connection)


def test_the_first_vectors_decide_the_length_of_embeddings(warehouse, write):
    write("raw.pins", DAYS[0], raw_pins())
    assert dimensions(warehouse) == UNKNOWN
    write("staging.pins", DAYS[0], staging_pins(np.empty((0, UNKNOWN), np.float32)))
    write("raw.pins", DAYS[1], raw_pins([1, 2, 3], [1, 2], [3, 4, 5], dt=DAYS[1]))
    assert dimensions(warehouse) == 3
    write("staging.pins", DAYS[1], staging_pins(np.eye(3, dtype=np.float32)))
    write("raw.pins", DAYS[2], raw_pins(*[[1, 2, 3, 4]] * 9, dt=DAYS[2], first_id=10))
    assert dimensions(warehouse) == 3
    # Nor does the first day, once the length is recorded.
    write("raw.pins", DAYS[0], raw_pins(*[[1, 2, 3, 4]] * 9, first_id=30))
    assert dimensions(warehouse) == 3
    with pytest.raises(duckdb.Error, match="4"):
        write("staging.pins", DAYS[2], staging_pins(np.eye(4, dtype=np.float32), first_id=10))
    kind = warehouse.read("SELECT column_type FROM (DESCRIBE staging.pins) WHERE column_name = 'embedding'").item()
    assert kind == "FLOAT[3]"


@pytest.mark.parametrize(
    "useless",
    [
        raw_pins([0, 0], [float("nan"), 1], [1, float("-inf")], [None, 1], [], None),
        raw_pins([1, 2]).with_columns(pin_id=pl.lit(None, pl.Int64)),
        raw_pins([1, 2]).with_columns(pin_id=pl.lit(-1, pl.Int64)),
        raw_pins([1, 2]).with_columns(created_at=pl.lit(None, pl.Datetime("us"))),
        raw_pins([1, 2]).with_columns(created_at=pl.lit(datetime.datetime(2026, 3, 2))),
    ],
    ids=["bad vectors", "no id", "reserved id", "never created", "created later"],
)
def test_rows_that_staging_refuses_do_not_decide_the_length(warehouse, write, useless):
    write("raw.pins", DAYS[0], useless)
    assert dimensions(warehouse) == UNKNOWN
    write("raw.pins", DAYS[1], raw_pins([1, 2, 3], dt=DAYS[1], first_id=10))
    assert dimensions(warehouse) == 3


def test_embeddings_come_back_bit_by_bit_without_an_object_a_row(warehouse, write):
    bits = np.random.default_rng(0).integers(0, 2**32, size=(4000, 64), dtype=np.uint32)
    vectors = bits.view(np.float32)
    vectors = np.where(np.isnan(vectors), np.float32(1e-42), vectors)
    write("raw.pins", DAY, raw_pins([1.0] * 64))
    write("staging.pins", DAY, staging_pins(vectors))
    warehouse.read_vectors("SELECT pin_id, embedding FROM staging.pins LIMIT 1")
    tracemalloc.start()
    ids, read = warehouse.read_vectors("SELECT pin_id, embedding FROM staging.pins ORDER BY pin_id")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert ids.dtype == np.int64
    assert ids.tolist() == list(range(1, 4001))
    assert read.dtype == np.float32
    assert np.array_equal(read.view(np.uint32), vectors.view(np.uint32))
    # A Python float alone has 24 bytes.
    assert peak < 2 * vectors.nbytes + 500_000
    ids, none = warehouse.read_vectors("SELECT pin_id, embedding FROM staging.pins WHERE pin_id < 0")
    assert (ids.shape, none.shape) == ((0,), (0, 64))


# Other columns than before.


def table_of(**types: str) -> Table:
    columns = (Column("dt", "DATE", "day"), *(Column(name, kind, name) for name, kind in types.items()))
    return Table("raw", "drifting", Path("schema.yml"), "A table.", columns, (), {})


def test_changed_columns_replace_an_empty_table_and_are_an_error_on_a_filled_one(warehouse):
    with warehouse.get_connection() as connection:
        none = pl.DataFrame(schema={"a": pl.Int64})
        replace_partitions(connection, table_of(a="BIGINT"), [DAY], none, run_id="run")
        replace_partitions(connection, table_of(b="BIGINT"), [DAY], pl.DataFrame({"b": [1]}), run_id="run")
        for drifted in (table_of(b="BIGINT", c="DATE"), table_of(b="VARCHAR"), table_of(d="BIGINT")):
            with pytest.raises(ValueError, match=r"raw\.drifting has other columns than schema.yml says now.*drop.*"):
                replace_partitions(connection, drifted, [DAY], pl.DataFrame({"b": [2]}), run_id="run")
        assert connection.execute("SELECT b FROM raw.drifting").fetchall() == [(1,)]


# The I/O manager.

DAILY = dg.DailyPartitionsDefinition(start_date=DAY.isoformat())


def days_from(start: int, end: int) -> dg.TimeWindowPartitionMapping:
    return dg.TimeWindowPartitionMapping(start_offset=start, end_offset=end, allow_nonexistent_upstream_partitions=True)


def run(warehouse: Warehouse, assets: list, *days: datetime.date, **options) -> dg.ExecuteInProcessResult:
    if len(days) == 1:
        scope = {"partition_key": days[0].isoformat()}
    else:
        bounds = {"start": days[0], "end": days[-1]}
        scope = {"tags": {f"dagster/asset_partition_range_{k}": day.isoformat() for k, day in bounds.items()}}
    resources = {"io_manager": PartitionIOManager(warehouse=warehouse), "warehouse": warehouse}
    return dg.materialize(assets, resources=resources, instance=dg.DagsterInstance.ephemeral(), **scope, **options)


def raw_impressions(rows_of, policy=None):
    @dg.asset(key=["raw", "impressions"], partitions_def=DAILY, backfill_policy=policy, code_version="v7")
    def asset(context: dg.AssetExecutionContext):
        return rows_of([datetime.date.fromisoformat(key) for key in context.partition_keys])

    return asset


def test_the_io_manager_writes_one_partition(warehouse, ledger, impressions):
    result = run(warehouse, [raw_impressions(lambda days: impressions(1, 2))], DAYS[1])
    assert pins_by_day(warehouse) == {DAYS[1]: [1, 2]}
    assert ledger(IMPRESSIONS) == [(DAYS[1], 2, result.run_id, "unchecked")]
    assert warehouse.read("SELECT code_version FROM operations.partitions").item() == "v7"
    [event] = result.asset_materializations_for_node("raw__impressions")
    assert event.metadata["dagster/partition_row_count"].value == 2
    assert event.metadata["pins shown"].value == 2


def test_the_io_manager_writes_a_range_from_files_and_deletes_them(warehouse, ledger, impressions):
    def rows_of(days):
        return ParquetFiles.spool(warehouse, (impressions(day.day, dt=day) for day in days if day != DAYS[2]))

    run(warehouse, [raw_impressions(rows_of, dg.BackfillPolicy.single_run())], *DAYS[1:4])
    assert pins_by_day(warehouse) == {DAYS[1]: [2], DAYS[3]: [4]}
    assert [(day, rows) for day, rows, _, _ in ledger(IMPRESSIONS)] == [(DAYS[1], 1), (DAYS[2], 0), (DAYS[3], 1)]
    assert list(Path(warehouse.database).parent.glob("scratch/*")) == []


def test_the_io_manager_deletes_files_that_cannot_be_written(warehouse, write, impressions):
    write(IMPRESSIONS, DAY, impressions(1))
    asset = raw_impressions(lambda days: ParquetFiles.spool(warehouse, [impressions(2).drop("pin_id")]))
    result = run(warehouse, [asset], DAY, raise_on_error=False)
    assert not result.success
    assert pins_by_day(warehouse) == {DAY: [1]}
    assert list(Path(warehouse.database).parent.glob("scratch/*")) == []


def test_an_asset_that_returns_nothing_writes_nothing(warehouse, write, ledger, impressions):
    write(IMPRESSIONS, DAY, impressions(1))
    run(warehouse, [raw_impressions(lambda days: None)], DAY)
    assert pins_by_day(warehouse) == {DAY: [1]}
    assert ledger(IMPRESSIONS) == [(DAY, 1, "run", "passed")]


@pytest.mark.parametrize(
    ("mapping", "day", "read"),
    [
        (days_from(-1, 0), DAYS[2], [1, 2]),
        (days_from(-1, 0), DAYS[0], [0]),
        (days_from(-1, -1), DAYS[3], [2]),
        (days_from(-1, -1), DAYS[0], []),
    ],
    ids=["two days", "clipped", "another day", "none"],
)
def test_an_input_is_the_partitions_that_its_mapping_names(warehouse, write, impressions, mapping, day, read):
    write(IMPRESSIONS, DAYS, pl.concat(impressions(n, dt=day) for n, day in enumerate(DAYS)))
    given = []

    @dg.asset(
        key=["staging", "impressions"],
        partitions_def=DAILY,
        ins={"rows": dg.AssetIn(["raw", "impressions"], partition_mapping=mapping)},
    )
    def staging(rows) -> None:
        given.append(rows)

    upstream = dg.AssetSpec(["raw", "impressions"], partitions_def=DAILY)
    run(warehouse, [staging, upstream], day, selection=[staging])
    assert sorted(given[0]["pin_id"].to_list()) == read
    assert set(given[0].columns) == {"dt", "user_id", "pin_id", "ts", "file"}


# --- Rows that are given up


def expire(warehouse, before, table=IMPRESSIONS):
    with warehouse.get_connection() as connection:
        return expire_partitions(connection, table, before)


def test_old_rows_go_and_the_ledger_tells_them_from_none(warehouse, write, ledger, impressions):
    write(IMPRESSIONS, DAYS[0], impressions())
    for day in DAYS[1:]:
        write(IMPRESSIONS, day, impressions(1, 2), status="failed" if day == DAYS[2] else "passed")
    assert expire(warehouse, DAYS[4]) == {DAYS[0]: 0, DAYS[1]: 2, DAYS[3]: 2}
    assert pins_by_day(warehouse) == {DAYS[2]: [1, 2], DAYS[4]: [1, 2]}
    assert [row[3] for row in ledger(IMPRESSIONS)] == ["expired", "expired", "failed", "expired", "passed"]
    assert expire(warehouse, DAYS[4]) == {}
    write(IMPRESSIONS, DAYS[1], impressions(3))
    assert pins_by_day(warehouse)[DAYS[1]] == [3]
    assert ledger(IMPRESSIONS)[1][3] == "passed"


def test_rows_that_cannot_be_deleted_are_not_said_to_be_gone(warehouse, write, ledger, impressions):
    write(IMPRESSIONS, DAYS, impressions(1, dt=DAYS[0]))
    with warehouse.get_connection() as connection:
        connection.execute("ALTER TABLE raw.impressions RENAME TO elsewhere")
    with pytest.raises(duckdb.CatalogException):
        expire(warehouse, DAYS[2])
    assert {row[3] for row in ledger(IMPRESSIONS)} == {"passed"}


@pytest.mark.parametrize("rows", [5_000, 130_000], ids=["less than a row group", "more than one"])
def test_a_file_that_gives_up_as_much_as_it_gets_stops_growing(warehouse, write, impressions, rows):
    sizes, days = [], [DAY + datetime.timedelta(offset) for offset in range(14)]
    random = np.random.default_rng(0)
    for day in days:
        write(IMPRESSIONS, day, impressions(*random.integers(0, 2**62, rows)))
        expire(warehouse, day - datetime.timedelta(days=2))
        sizes.append(Path(warehouse.database).stat().st_size)
    assert len(pins_by_day(warehouse)) == 3
    # Row groups of which a part is gone are not given back at once.
    assert max(sizes[6:]) <= 2.5 * sizes[2]
    assert max(sizes[10:]) <= 1.1 * max(sizes[6:10])


def spec_that_reads(*offsets, table=IMPRESSIONS):
    mapping = dg.TimeWindowPartitionMapping(start_offset=offsets[0], end_offset=offsets[1])
    return dg.AssetSpec(["users", "clusters"], deps=[dg.AssetDep(table.split("."), partition_mapping=mapping)])


@pytest.mark.parametrize(
    ("offsets", "days", "lost"),
    [
        ((0, 0), DAYS[1:2], f"{DAYS[1]}"),
        ((0, 0), DAYS[2:3], None),
        ((-1, -1), DAYS[2:3], f"{DAYS[1]}"),
        ((-1, -1), DAYS[3:4], None),
        ((-4, 0), DAYS[4:5], f"{DAYS[0]} to {DAYS[1]}"),
        ((0, 0), DAYS[1:4], f"{DAYS[1]}"),
        ((-36_500, -1), DAYS[:1], None),
    ],
)
def test_what_is_made_from_rows_that_are_gone_is_refused(warehouse, write, impressions, offsets, days, lost):
    write(IMPRESSIONS, DAYS, impressions(1, dt=DAYS[0]))
    expire(warehouse, DAYS[2])
    with warehouse.get_reader() as connection:
        refuse_expired_inputs(connection, spec_that_reads(*offsets, table="raw.pins"), days)
        if lost is None:
            refuse_expired_inputs(connection, spec_that_reads(*offsets), days)
        else:
            with pytest.raises(dg.Failure) as refused:
                refuse_expired_inputs(connection, spec_that_reads(*offsets), days)
            assert f"users.clusters stays as it is: what it is made from has expired ({IMPRESSIONS} of {lost})" in str(
                refused.value.description
            )
            assert f"make backfill FROM={days[0]} TO={days[-1]} AGAIN=1" in refused.value.description
