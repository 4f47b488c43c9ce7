"""Landing files of whatever kind: right rows, refused rows with a reason, or one error that names the file."""

import datetime
import math
import os
import tempfile
from pathlib import Path

import duckdb
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pinnersage_assets.sources.landing import LandingError, LandingSource, day_folder, files_digest
from pinnersage_assets.warehouse.dimensions import embedding_dimensions
from pinnersage_assets.warehouse.partitions import replace_partitions
from pinnersage_assets.warehouse.sql_models import load_sql_models
from pinnersage_assets.warehouse.tables import all_tables

pytestmark = pytest.mark.slow

DAY = datetime.date(2026, 3, 1)
NOON = datetime.datetime(2026, 3, 1, 12)
COLUMNS = {
    "actions": ("user_id", "pin_id", "action", "ts"),
    "impressions": ("user_id", "pin_id", "ts"),
    "board_pins": ("board_id", "user_id", "pin_id", "ts"),
    "pins": ("pin_id", "created_at", "embedding", "title", "category", "width", "height", "text_fraction"),
}

# --- Columns: the right type with ordinary and extreme values, and every other type


def values(dtype, elements):
    return st.tuples(st.just(dtype), st.lists(st.none() | elements, min_size=4, max_size=4))


def integers(dtype, least, most):
    edges = st.sampled_from([least, least + 1, -1, 0, 1, 2, most - 1, most]).filter(lambda n: least <= n <= most)
    return values(dtype, edges | st.integers(least, most))


FLOATS = st.sampled_from(
    [0.0, -0.0, 1.0, 2.5, math.nan, math.inf, -math.inf, 1e308, 5e-324, 2.0**53, -(2.0**63), 2.0**64]
)
TEXTS = st.sampled_from(
    ["repin", "click", "", " ", "'; DROP TABLE raw.actions; --", "null", "日本\x00", "a" * 5000, "12", "🙂"]
)
# From the year 1 to 9999, and the edges of the day.
TIMES = st.sampled_from(
    [
        NOON,
        datetime.datetime(2026, 3, 1),
        datetime.datetime(2026, 3, 1, 23, 59, 59, 999999),
        datetime.datetime(2026, 3, 2),
        datetime.datetime(1, 1, 1),
        datetime.datetime(9999, 12, 31, 23, 59, 59),
        datetime.datetime(1969, 12, 31),
    ]
)
# What a nanosecond can count.
RECENT = TIMES.filter(lambda time: 1700 < time.year < 2200)
VECTORS = st.lists(FLOATS | st.none(), max_size=3) | st.sampled_from([[1.0, 0.0], [0.6, 0.8], [0.0, 0.0]])

COLUMN = st.one_of(
    integers(pl.Int64, -(2**63), 2**63 - 1),
    integers(pl.UInt64, 0, 2**64 - 1),
    integers(pl.Int8, -128, 127),
    integers(pl.UInt32, 0, 2**32 - 1),
    values(pl.Float64, FLOATS),
    values(pl.Float32, st.sampled_from([0.0, 1.0, math.nan, math.inf, 16777217.0])),
    values(pl.String, TEXTS),
    values(pl.Categorical, st.sampled_from(["repin", "click"])),
    values(pl.Boolean, st.booleans()),
    values(pl.Date, st.sampled_from([DAY, datetime.date(1, 1, 1), datetime.date(9999, 12, 31)])),
    values(pl.Datetime("us"), TIMES),
    values(pl.Datetime("ms"), TIMES),
    values(pl.Datetime("ns"), RECENT),
    values(pl.Datetime("us", "UTC"), TIMES),
    values(pl.Datetime("us", "America/New_York"), RECENT),
    values(pl.Time, st.just(datetime.time(12))),
    values(pl.Duration("us"), st.just(datetime.timedelta(days=1))),
    values(pl.Binary, st.binary(max_size=3)),
    values(pl.Decimal(20, 2), st.just(1)),
    values(pl.List(pl.Float32), VECTORS),
    values(pl.List(pl.Float64), VECTORS),
    values(pl.List(pl.Int64), st.lists(st.integers(-5, 5), max_size=3)),
    values(pl.List(pl.String), st.lists(TEXTS, max_size=2)),
    values(pl.List(pl.List(pl.Float32)), st.lists(VECTORS, max_size=2)),
    values(pl.Array(pl.Float32, 2), st.sampled_from([[1.0, 0.0], [3.0, 4.0], [math.nan, 1.0]])),
    values(pl.Struct({"a": pl.Int64}), st.just({"a": 1})),
    st.tuples(st.just(pl.Null), st.just([None] * 4)),
)
# So that not every file has some column of a wrong type.
RIGHT = {
    "board_id": integers(pl.Int64, -(2**63), 2**63 - 1),
    "user_id": integers(pl.Int64, -(2**63), 2**63 - 1),
    "pin_id": integers(pl.Int64, -(2**63), 2**63 - 1),
    "action": values(pl.String, TEXTS),
    "ts": values(pl.Datetime("us"), TIMES),
    "created_at": values(pl.Datetime("us"), TIMES),
    "embedding": values(pl.List(pl.Float32), VECTORS),
    "title": values(pl.String, TEXTS),
    "category": values(pl.String, TEXTS),
    "width": integers(pl.Int32, -(2**31), 2**31 - 1),
    "height": integers(pl.Int32, -(2**31), 2**31 - 1),
    "text_fraction": values(pl.Float32, st.sampled_from([0.0, 1.0, math.nan, math.inf])),
}


@st.composite
def frames(draw, table):
    columns = {}
    for name in (*COLUMNS[table], "something_else", "dt", "file"):
        expected = name in COLUMNS[table]
        if draw(st.integers(0, 19)) > (0 if expected else 14):
            wrong = not expected or draw(st.integers(0, 7)) == 0
            dtype, found = draw(COLUMN if wrong else RIGHT[name])
            columns[name] = pl.Series(name, found, dtype=dtype, strict=False)
    names = draw(st.permutations(list(columns)))
    rows = draw(st.integers(0, 4))
    return pl.DataFrame([columns[name] for name in names]).head(rows)


# --- Files: names, and what becomes of them

NAMES = st.sampled_from(
    [
        "part-0.parquet",
        "a'b\".parquet",
        "..parquet",
        "...parquet.parquet",
        ".hidden.parquet",
        "_temporary.parquet",
        "data.PARQUET",
        "data.csv",
        "* ? [a-z].parquet",
        "dt=2026-01-01.parquet",
        "$(touch x);--.parquet",
        "日本 🙂.parquet",
        "%2e%2e%2f.parquet",
        "x" * 200 + ".parquet",
    ]
)
HARM = st.sampled_from(
    ["none"] * 9 + ["truncated", "flipped", "empty", "text", "folder", "linked", "dangling", "secret"]
)


def write(frame, path, harm, where):
    """Put a file there, or what is left of it; how many rows a reader may find, None where that is open."""
    if harm == "folder":
        path.mkdir()
        return None
    if harm == "dangling":
        path.symlink_to(path.with_name("nowhere"))
        return None
    frame.write_parquet(path)
    content = path.read_bytes()
    if harm == "truncated":
        path.write_bytes(content[: len(content) * where // 100])
    elif harm == "flipped":
        place = len(content) * where // 100
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
    elif harm == "empty":
        path.write_bytes(b"")
    elif harm == "text":
        path.write_text("user_id,pin_id\n1,2\n")
    elif harm == "secret":
        path.chmod(0)
    elif harm == "linked":
        path.rename(path.with_name(path.name + ".target"))
        path.symlink_to(path.with_name(path.name + ".target"))
    return len(frame) if harm in ("none", "linked") else None


FILES = {table: st.lists(st.tuples(frames(table), NAMES, HARM, st.integers(0, 99)), max_size=3) for table in COLUMNS}


def is_read(name):
    return name.endswith(".parquet") and not name.startswith((".", "_"))


@settings(max_examples=700, deadline=None, suppress_health_check=list(HealthCheck))
@given(files=FILES["actions"])
def test_actions(files):
    check("actions", files)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(files=FILES["impressions"])
def test_impressions(files):
    check("impressions", files)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(files=FILES["board_pins"])
def test_board_pins(files):
    check("board_pins", files)


@settings(max_examples=700, deadline=None, suppress_health_check=list(HealthCheck))
@given(files=FILES["pins"])
def test_pins(files):
    check("pins", files)


def check(table, files):
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        folder = day_folder(root, table, DAY)
        folder.mkdir(parents=True)
        expected = {}
        for frame, file, harm, where in files:
            if not os.path.lexists(folder / file):
                expected[file] = write(frame, folder / file, harm, where)
        error = None
        try:
            assert files_digest(root, table, DAY) >= 0
            raw = getattr(LandingSource(root), table)(DAY)
        except LandingError as raised:
            error = str(raised)
        if error:
            # One clear message, which names a file that is read.
            assert any(f"{table}/dt={DAY}/{file}" in error for file in expected if is_read(file)), error
            assert len(error) < 3_000
            return
        counts = dict(raw.group_by("file").len().iter_rows())
        for file, rows in expected.items():
            found = counts.pop(f"{table}/dt={DAY}/{file}", 0)
            assert found == 0 if not is_read(file) else rows is None or found == rows
        assert not counts
    stage(table, raw)


def stage(table, raw):
    """Every row is in staging or refused with a reason, and what is in staging is right."""
    with duckdb.connect(":memory:", config={"python_enable_replacements": False}) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        tables = all_tables()
        for other in COLUMNS:
            rows = raw if other == table else getattr(LandingSource(Path("nowhere")), other)(DAY)
            replace_partitions(connection, tables[f"raw.{other}"], [DAY], rows, run_id="run")
        for model in (*(f"staging.{other}" for other in COLUMNS), "staging.rejected"):
            variables = {"first_dt": DAY, "last_dt": DAY, "dimensions": embedding_dimensions(connection)}
            rows = connection.sql(load_sql_models()[model].render(variables)).pl()
            replace_partitions(connection, tables[model], [DAY], rows, run_id="run")
        kept = connection.sql(f"FROM staging.{table}").pl()
        refused = connection.sql(f"FROM staging.rejected WHERE source = '{table}'").pl()
    assert len(kept) + len(refused) == len(raw)
    assert refused["reason"].null_count() == 0
    assert refused["reason"].str.len_chars().min() != 0
    ids = [name for name in ("board_id", "user_id", "pin_id") if name in kept.columns]
    assert kept.select(ids).null_count().sum_horizontal().item() == 0
    assert not (kept["pin_id"] == -1).any()
    if table == "pins":
        assert kept["pin_id"].is_unique().all()
        lengths = kept["embedding"].arr.to_list().list.eval(pl.element().cast(pl.Float64) ** 2).list.sum()
        assert lengths.is_finite().all()
        assert lengths.is_close(1.0, abs_tol=1e-4).all()
        assert (kept["created_at"].dt.date() <= DAY).all()
    else:
        assert (kept["ts"].dt.date() == DAY).all()
        assert kept.is_unique().all()
