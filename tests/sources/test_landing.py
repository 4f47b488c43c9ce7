import datetime
import decimal
import math
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pinnersage_assets.sources.landing import (
    LandingError,
    LandingSource,
    fitted_before,
    landed_days,
    record_fit,
    write_day,
)

DAY = datetime.date(2026, 3, 1)
NOON = datetime.datetime(2026, 3, 1, 12)
US = pa.timestamp("us")


def actions(**columns) -> pa.Table:
    usual = {
        "user_id": pa.array([1]),
        "pin_id": pa.array([2]),
        "action": ["repin"],
        "ts": pa.array([NOON], US),
    }
    return pa.table({name: column for name, column in {**usual, **columns}.items() if column is not None})


def pins(**columns) -> pa.Table:
    vector = pa.array([[0.5, 0.25]], pa.list_(pa.float32()))
    usual = {"pin_id": pa.array([2]), "created_at": pa.array([NOON], US), "embedding": vector}
    return pa.table({name: column for name, column in {**usual, **columns}.items() if column is not None})


def land(folder: Path, table: pa.Table, name: str = "part-0.parquet", kind: str = "actions") -> Path:
    path = folder / kind / f"dt={DAY}" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


def test_a_missing_folder_is_an_empty_day_with_all_columns(tmp_path):
    source = LandingSource(tmp_path)
    assert source.actions(DAY).schema == {
        "user_id": pl.Int64,
        "pin_id": pl.Int64,
        "action": pl.String,
        "ts": pl.Datetime("us"),
        "file": pl.String,
    }
    assert source.impressions(DAY).columns == ["user_id", "pin_id", "ts", "file"]
    assert source.board_pins(DAY).columns == ["board_id", "user_id", "pin_id", "ts", "file"]
    land(tmp_path, pins(), kind="pins")
    empty, landed = source.pins(DAY + datetime.timedelta(1)), source.pins(DAY)
    assert (empty.height, landed.height) == (0, 1)
    assert empty.schema == landed.schema


def test_rows_come_as_they_are_in_the_order_of_names_and_rows(tmp_path):
    yesterday = NOON - datetime.timedelta(1)
    land(tmp_path, actions(user_id=pa.array([5])), "b.parquet")
    land(
        tmp_path,
        actions(
            user_id=pa.array([9, 9, None]),
            pin_id=pa.array([1, 1, 1]),
            action=["hide", "hide", None],
            ts=pa.array([yesterday, yesterday, None], US),
        ),
        "a.parquet",
    )
    frame = LandingSource(tmp_path).actions(DAY)
    assert frame["user_id"].to_list() == [9, 9, None, 5]
    assert frame["ts"].to_list() == [yesterday, yesterday, None, NOON]
    assert frame["file"].to_list() == [f"actions/dt={DAY}/a.parquet"] * 3 + [f"actions/dt={DAY}/b.parquet"]


def test_bad_vectors_are_left_to_staging(tmp_path):
    vectors = [[math.nan, 1.0], [1.0], None, [None, 2.0], []]
    embedding = pa.array(vectors, pa.list_(pa.float32()))
    land(
        tmp_path,
        pins(pin_id=pa.array(range(5)), created_at=pa.array([NOON] * 5, US), embedding=embedding),
        kind="pins",
    )
    read = LandingSource(tmp_path).pins(DAY)["embedding"].to_list()
    assert math.isnan(read[0][0])
    assert read[1:] == vectors[1:]


def test_markers_hidden_files_and_strangers_are_left_alone(tmp_path):
    folder = land(tmp_path, actions()).parent
    for name in ("_SUCCESS", "_temporary.parquet", ".part-1.parquet", "notes.txt", "part-0.parquet.crc"):
        (folder / name).write_text("not Parquet")
    assert LandingSource(tmp_path).actions(DAY).height == 1


def test_a_name_is_not_a_pattern(tmp_path):
    folder = tmp_path / "odd [ab]* {x}"
    land(folder, actions(), "part-[0]*.parquet")
    assert LandingSource(folder).actions(DAY)["file"].to_list() == [f"actions/dt={DAY}/part-[0]*.parquet"]


def test_a_board_that_is_no_integer_is_an_error_that_says_what_to_do(tmp_path):
    saves = pa.table({"board_id": ["kitchen"], "user_id": [1], "pin_id": [2], "ts": pa.array([NOON], US)})
    land(tmp_path, saves, kind="board_pins")
    with pytest.raises(LandingError, match=r"part-0\.parquet: column board_id is String.*integers; number other ids"):
        LandingSource(tmp_path).board_pins(DAY)


@pytest.mark.parametrize("dtype", [pa.int8(), pa.uint16(), pa.int32(), pa.uint64(), pa.int64()], ids=str)
def test_integers_of_any_width_are_ids(tmp_path, dtype):
    land(
        tmp_path,
        actions(
            user_id=pa.array([7, None], dtype),
            pin_id=pa.array([2, 2]),
            action=["a", "b"],
            ts=pa.array([NOON] * 2, US),
        ),
    )
    frame = LandingSource(tmp_path).actions(DAY)
    assert frame["user_id"].to_list() == [7, None]
    assert frame["user_id"].dtype == pl.Int64


@pytest.mark.parametrize(
    "vector",
    [
        pa.array([[0.5, 0.25]], pa.list_(pa.float64())),
        pa.array([[0.5, 0.25]], pa.list_(pa.float32(), 2)),
        pa.array([[np.float16(0.5), np.float16(0.25)]], pa.list_(pa.float16())),
        pa.array([[0.5, 0.25]], pa.large_list(pa.float32())),
        pa.array([[decimal.Decimal("0.50"), decimal.Decimal("0.25")]], pa.list_(pa.decimal128(4, 2))),
    ],
    ids=lambda vector: str(vector.type),
)
def test_vectors_of_any_float_and_list_are_read(tmp_path, vector):
    land(tmp_path, pins(embedding=vector), kind="pins")
    embedding = LandingSource(tmp_path).pins(DAY)["embedding"]
    assert embedding.dtype == pl.List(pl.Float32)
    assert embedding.to_list() == [[0.5, 0.25]]


def test_integer_vectors_are_read(tmp_path):
    land(tmp_path, pins(embedding=pa.array([[1, -2]], pa.list_(pa.int8()))), kind="pins")
    assert LandingSource(tmp_path).pins(DAY)["embedding"].to_list() == [[1.0, -2.0]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([NOON], pa.timestamp("s")), NOON),
        (pa.array([NOON], pa.timestamp("ms")), NOON),
        (pa.array([NOON], pa.timestamp("us", "UTC")), NOON),
        # 12:00 UTC is shown as 14:00 in Helsinki; what is stored is the instant.
        (pa.array([NOON], pa.timestamp("ms", "Europe/Helsinki")), NOON),
        (pa.array([1_999], pa.timestamp("ns")), datetime.datetime(1970, 1, 1, 0, 0, 0, 1)),
        (pa.array([-1], pa.timestamp("ns")), datetime.datetime(1969, 12, 31, 23, 59, 59, 999_999)),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)
def test_timestamps_of_any_unit_and_zone_are_microseconds_utc(tmp_path, values, expected):
    land(tmp_path, actions(ts=values))
    ts = LandingSource(tmp_path).actions(DAY)["ts"]
    assert ts.dtype == pl.Datetime("us")
    assert ts.to_list() == [expected]


@pytest.mark.parametrize("dtype", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())], ids=str)
def test_text_of_any_kind_is_text(tmp_path, dtype):
    text = pa.array(["click"]).dictionary_encode() if pa.types.is_dictionary(dtype) else pa.array(["click"], dtype)
    land(tmp_path, actions(action=text))
    action = LandingSource(tmp_path).actions(DAY)["action"]
    assert (action.dtype, action.to_list()) == (pl.String, ["click"])


def test_a_pin_may_have_a_date_null_columns_extra_columns_and_optional_ones(tmp_path):
    extra = {
        "title": pa.nulls(1),
        "width": pa.array([640]),
        "text_fraction": pa.array([0.25]),
        "board": pa.array([[1]]),
    }
    land(tmp_path, pins(created_at=pa.array([DAY]), **extra), kind="pins")
    [row] = LandingSource(tmp_path).pins(DAY).to_dicts()
    assert row == {
        "pin_id": 2,
        "created_at": datetime.datetime(2026, 3, 1),
        "embedding": [0.5, 0.25],
        "title": None,
        "category": None,
        "image_url": None,
        "width": 640,
        "height": None,
        "text_fraction": 0.25,
        "file": f"pins/dt={DAY}/part-0.parquet",
    }


def test_files_of_one_day_may_differ_in_types_and_optional_columns(tmp_path):
    land(tmp_path, pins(title=["a"], pin_id=pa.array([1], pa.int16())), "0.parquet", kind="pins")
    land(tmp_path, pins(embedding=pa.nulls(1)), "1.parquet", kind="pins")
    assert LandingSource(tmp_path).pins(DAY)["title"].to_list() == ["a", None]


def test_whole_floats_are_integers_and_nan_is_null(tmp_path):
    """As pandas writes a column of integers in which some are missing."""
    land(tmp_path, actions(user_id=pa.array([float("nan")]), pin_id=pa.array([7.0])))
    assert LandingSource(tmp_path).actions(DAY).select("user_id", "pin_id").rows() == [(None, 7)]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user_id": None}, r"lacks the required column user_id; it has pin_id, action, ts"),
        ({"user_id": pa.array([2**63], pa.uint64())}, r"column user_id .*outside Int64.*import-events"),
        (
            {"pin_id": ["abc"]},
            r"column pin_id is String .*64-bit integers.*python -m pinnersage_assets import-events",
        ),
        ({"pin_id": pa.array([1.5])}, r"column pin_id \(Float64\) has 1 values outside Int64, such as 1.5"),
        ({"pin_id": pa.array([2.0**53])}, r"column pin_id \(Float64\) has 1 values outside Int64"),
        ({"pin_id": pa.array([True])}, r"column pin_id is Boolean and must be a 64-bit integer"),
        ({"action": pa.array([1])}, r"column action is Int64 and must be text"),
        ({"ts": ["2026-03-01"]}, r"column ts is String and must be a timestamp"),
        ({"ts": pa.array([DAY])}, r"column ts is Date and must be a timestamp"),
        ({"ts": pa.array([2**62], pa.timestamp("ms", "UTC"))}, r"column ts .*outside"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "".join(value),
)
def test_a_column_that_cannot_be_used_is_named(tmp_path, columns, message):
    land(tmp_path, actions(**columns))
    with pytest.raises(LandingError, match=message) as error:
        LandingSource(tmp_path).actions(DAY)
    assert f"actions/dt={DAY}/part-0.parquet" in str(error.value)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"embedding": [["a"]]}, r"column embedding is List\(String\) and must be a list of floats"),
        ({"embedding": pa.array([[[1.0]]])}, r"must be a list of floats"),
        ({"width": pa.array([2**40])}, r"column width .*outside Int32"),
        ({"height": ["high"]}, r"column height is String and must be an integer"),
        ({"title": pa.array([b"x"])}, r"column title is Binary and must be text"),
        ({"text_fraction": ["x"]}, r"column text_fraction is String and must be a number"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "".join(value),
)
def test_a_pins_column_that_cannot_be_used_is_named(tmp_path, columns, message):
    land(tmp_path, pins(**columns), kind="pins")
    with pytest.raises(LandingError, match=message):
        LandingSource(tmp_path).pins(DAY)


def test_damaged_files_are_named(tmp_path):
    path = land(tmp_path, actions())
    whole = path.read_bytes()
    damages = {
        b"": "is empty",
        whole[:-10]: "cannot be read",
        b"user_id,pin_id": "cannot be read",
        whole[200:]: "cannot",
    }
    for damaged, message in damages.items():
        path.write_bytes(damaged)
        with pytest.raises(LandingError, match=f"actions/dt={DAY}/part-0.parquet {message}.*write it again"):
            LandingSource(tmp_path).actions(DAY)


@pytest.mark.parametrize("where", [f"actions/dt={DAY}", "actions"])
def test_a_file_where_a_folder_should_be_is_an_error(tmp_path, where):
    (tmp_path / where).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / where).write_text("")
    with pytest.raises(LandingError, match=f"actions/dt={DAY} must be a folder"):
        LandingSource(tmp_path).actions(DAY)


def test_a_folder_that_is_named_as_a_file_is_an_error(tmp_path):
    (tmp_path / f"actions/dt={DAY}/part-0.parquet").mkdir(parents=True)
    with pytest.raises(LandingError, match=r"part-0\.parquet cannot be read"):
        LandingSource(tmp_path).actions(DAY)


def test_a_written_day_is_read_back_and_not_overwritten_unasked(tmp_path):
    frame = pl.DataFrame({"user_id": [1], "pin_id": [2], "action": ["click"], "ts": [NOON]})
    path = write_day(tmp_path, "actions", DAY, frame)
    assert LandingSource(tmp_path).actions(DAY).drop("file").equals(frame)
    with pytest.raises(LandingError, match="exists"):
        write_day(tmp_path, "actions", DAY, frame)
    (path.parent / "part-1.parquet").write_bytes(path.read_bytes())
    write_day(tmp_path, "actions", DAY, frame.with_columns(pin_id=pl.lit(3)), replace=True)
    assert LandingSource(tmp_path).actions(DAY)["pin_id"].to_list() == [3]
    assert [file.name for file in path.parent.iterdir()] == ["part-0.parquet"]


def test_a_write_that_fails_leaves_the_day_as_it_was(tmp_path, monkeypatch):
    frame = pl.DataFrame({"user_id": [1], "pin_id": [2], "action": ["click"], "ts": [NOON]})
    path = write_day(tmp_path, "actions", DAY, frame)
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_day(tmp_path, "actions", DAY, frame.clear(), replace=True)
    assert LandingSource(tmp_path).actions(DAY).height == 1
    assert [file.name for file in path.parent.iterdir()] == ["part-0.parquet"]


def test_a_day_without_its_columns_is_not_written(tmp_path):
    with pytest.raises(LandingError, match="without action, ts"):
        write_day(tmp_path, "actions", DAY, pl.DataFrame({"user_id": [1], "pin_id": [2]}))


def test_landed_days_are_dates_and_misnamed_folders_are_said(tmp_path):
    for name in ("dt=2026-03-02", "dt=2026-03-01", "other"):
        (tmp_path / "pins" / name).mkdir(parents=True)
    assert landed_days(tmp_path, "pins") == [DAY, DAY + datetime.timedelta(1)]
    assert landed_days(tmp_path, "actions") == []
    for name in ("dt=20260303", "dt=2026-3-3", "dt=today"):
        (tmp_path / "pins" / name).mkdir()
        with pytest.raises(LandingError, match="never read"):
            landed_days(tmp_path, "pins")
        (tmp_path / "pins" / name).rmdir()


# --- Up to when embeddings were fitted


def test_nobody_need_say_what_embeddings_were_fitted_to(tmp_path):
    assert fitted_before(tmp_path) is None


def test_the_day_that_is_recorded_is_read_again(tmp_path):
    record_fit(tmp_path, datetime.date(2026, 3, 1))
    assert fitted_before(tmp_path) == datetime.date(2026, 3, 1)
    record_fit(tmp_path, datetime.date(2026, 4, 1))
    assert fitted_before(tmp_path) == datetime.date(2026, 4, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fitted_before = ", "cannot be read"),
        ("fitted_before = '2026-03-01'", "a line such as fitted_before = 2026-03-01; it says '2026-03-01'"),
        ("fitted_before = 2026-03-01T00:00:00", "a line such as"),
        ("fited_before = 2026-03-01", "it says None"),
    ],
)
def test_a_record_that_says_no_day_is_refused(tmp_path, text, message):
    (tmp_path / "vectors.toml").write_text(text)
    with pytest.raises(LandingError, match=rf"vectors\.toml .*{message}"):
        fitted_before(tmp_path)
