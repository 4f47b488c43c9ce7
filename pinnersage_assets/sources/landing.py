"""The landing folders: Parquet files that others drop, one folder a table and a day.

What belongs here: their layout, their columns, and faults of a whole file. What does not: faults of single
rows (nulls, duplicates, timestamps of another day, vectors of the wrong length). Rows are handed on as they
came, and the SQL staging models refuse them and say why.
"""

import datetime
import hashlib
import json
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from polars.exceptions import PanicException, PolarsError

from pinnersage_assets.files import written_atomically

Day = datetime.date

_TIMESTAMP = pl.Datetime("us")
_REQUIRED: dict[str, dict[str, pl.DataType]] = {
    "actions": {"user_id": pl.Int64(), "pin_id": pl.Int64(), "action": pl.String(), "ts": _TIMESTAMP},
    "impressions": {"user_id": pl.Int64(), "pin_id": pl.Int64(), "ts": _TIMESTAMP},
    "board_pins": {"board_id": pl.Int64(), "user_id": pl.Int64(), "pin_id": pl.Int64(), "ts": _TIMESTAMP},
    "pins": {"pin_id": pl.Int64(), "created_at": _TIMESTAMP, "embedding": pl.List(pl.Float32())},
}
_OPTIONAL: dict[str, dict[str, pl.DataType]] = {
    "pins": {
        "title": pl.String(),
        "category": pl.String(),
        "image_url": pl.String(),
        "width": pl.Int32(),
        "height": pl.Int32(),
        "text_fraction": pl.Float32(),
    },
}


_VECTORS_FILE = "vectors.toml"


class LandingError(ValueError):
    """A landing file or folder that cannot be read as the contract says; names it, and says what to do."""


@dataclass(frozen=True)
class LandingSource:
    """Raw data from ``landing/<table>/dt=YYYY-MM-DD/*.parquet``.

    Each method returns the rows of one day as they came, files in the order of their names and rows in the
    order of the file, with a column `file` (path relative to `folder`) to trace them by. A folder that does
    not exist is an empty day. Names that start with ``.`` or ``_`` and names that do not end in ``.parquet``
    are left alone.

    Raises (each method):
        LandingError: a file is not Parquet, is damaged, lacks a column, or has one of a type or value that
            cannot be converted without loss; or there is a file where a folder should be.
    """

    folder: Path

    def actions(self, day: Day) -> pl.DataFrame:
        """Return actions of the day.

        Columns user_id, pin_id Int64, action String, ts Datetime (microseconds, UTC), file String.
        """
        return self._read("actions", day)

    def impressions(self, day: Day) -> pl.DataFrame:
        """Return impressions of the day.

        Columns user_id, pin_id Int64, ts Datetime (microseconds, UTC), file String.
        """
        return self._read("impressions", day)

    def board_pins(self, day: Day) -> pl.DataFrame:
        """Return what users saved to boards on the day.

        Columns board_id, user_id, pin_id Int64, ts Datetime (microseconds, UTC), file String.
        """
        return self._read("board_pins", day)

    def pins(self, day: Day) -> pl.DataFrame:
        """Return pins first seen on the day.

        Columns pin_id Int64, created_at Datetime (microseconds, UTC), embedding List(Float32), title,
        category and image_url String, width and height Int32 (pixels), text_fraction Float32, file String;
        title to text_fraction are null where a file does not have them.
        """
        return self._read("pins", day)

    def _read(self, table: str, day: Day) -> pl.DataFrame:
        files = _parquet_files(self.folder, day_folder(self.folder, table, day))
        schema = {**_REQUIRED[table], **_OPTIONAL.get(table, {}), "file": pl.String()}
        return pl.concat([pl.DataFrame(schema=schema), *(_read_file(self.folder, file, table) for file in files)])


def day_folder(folder: Path, table: str, day: Day) -> Path:
    """Say where the landing folder keeps a day of a table."""
    return folder / table / f"dt={day.isoformat()}"


def files_digest(folder: Path, table: str, day: Day) -> int:
    """Stands for the files of a day by their names, sizes and times of change, in 63 bits; 0 where there are none.

    Raises:
        LandingError: there is a file where the day's folder should be.
    """
    states = [(path.name, *_size_and_time(path)) for path in _parquet_files(folder, day_folder(folder, table, day))]
    return digest_of(states) if states else 0


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError:
        # Whoever reads it says what is wrong with it.
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def digest_of(value: object) -> int:
    """Stands for a value that JSON can hold, in 63 bits, never 0."""
    return int.from_bytes(hashlib.sha256(json.dumps(value).encode()).digest()[:8]) >> 1 or 1


def landed_days(folder: Path, table: str) -> list[Day]:
    """Return the days that have a folder, in order.

    Raises:
        LandingError: a name starts with ``dt=`` and goes on with something that is not a date, so it is never
            read.
    """
    names = [path.name for path in (folder / table).glob("dt=*")]
    try:
        # fromisoformat also takes 20260131, which no reader would look for.
        days = {name: Day.fromisoformat(name.removeprefix("dt=")) for name in names}
        wrong = [name for name, day in days.items() if name != f"dt={day.isoformat()}"]
    except ValueError as error:
        raise LandingError(f"{table} has a folder that is never read ({error}); name folders dt=2026-01-31") from error
    if wrong:
        raise LandingError(f"{table}/{wrong[0]} is never read; name folders dt=2026-01-31")
    return sorted(days.values())


def write_day(folder: Path, table: str, day: Day, frame: pl.DataFrame, replace: bool = False) -> Path:
    """Write a day of a table as the one file ``part-0.parquet``; a reader sees the whole file or none of it.

    Args:
        folder: the landing folder.
        table: actions, impressions, board_pins or pins.
        day: the day; its rows are not checked against it.
        frame: the table's columns as `LandingSource` returns them, without `file`; optional ones may be
            missing.
        replace: also over an existing folder of that day, whose other Parquet files are then removed.

    Returns:
        The path of the file.

    Raises:
        LandingError: the day exists and `replace` is false, or the frame lacks a column.
    """
    target = day_folder(folder, table, day)
    if missing := [name for name in _REQUIRED[table] if name not in frame.columns]:
        raise LandingError(f"{table} of {day} cannot be written without {', '.join(missing)}")
    if target.exists() and not replace:
        raise LandingError(f"{target} exists; replace it explicitly, or write to another landing folder")
    write_parquet_atomically(frame, target / "part-0.parquet")
    for other in _parquet_files(folder, target):
        if other.name != "part-0.parquet":
            other.unlink()
    return target / "part-0.parquet"


def write_parquet_atomically(frame: pl.DataFrame, path: Path) -> None:
    """Write a Parquet file that appears whole or not at all."""
    with written_atomically(path) as hidden:
        frame.write_parquet(hidden)


def _parquet_files(root: Path, folder: Path) -> list[Path]:
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LandingError(
            f"{folder.relative_to(root)} must be a folder of Parquet files, and cannot be read as one: "
            f"{error.strerror or error}"
        ) from error
    return [folder / name for name in names if name.endswith(".parquet") and not name.startswith((".", "_"))]


def _read_file(root: Path, path: Path, table: str) -> pl.DataFrame:
    name = path.relative_to(root).as_posix()
    required, optional = _REQUIRED[table], _OPTIONAL.get(table, {})
    try:
        # The name is taken as it is: neither a pattern, nor a source of columns (dt=...).
        lazy = pl.scan_parquet(path, glob=False, hive_partitioning=False)
        available = lazy.collect_schema().names()
        wanted = [column for column in (*required, *optional) if column in available]
        frame = lazy.select(wanted).collect()
    except (PolarsError, PanicException, OSError) as error:
        size = path.stat().st_size if path.is_file() else None
        what = "is empty (0 bytes)" if size == 0 else f"cannot be read as Parquet ({error})"
        raise LandingError(
            f"{name} {what}: remove it, or write it again (named '.something' until it is whole)"
        ) from error
    if missing := [column for column in required if column not in available]:
        raise LandingError(
            f"{name} lacks the required column {', '.join(missing)}; "
            f"it has {', '.join(available) or 'none'}. {table} need {', '.join(required)}"
        )
    columns = [
        _convert(frame[column], dtype, name) if column in available else pl.lit(None, dtype).alias(column)
        for column, dtype in {**required, **optional}.items()
    ]
    return frame.select(columns).with_columns(pl.lit(name).alias("file"))


def _convert(values: pl.Series, target: pl.DataType, file: str) -> pl.Series:
    """Return the column in its contractual type, or raise a LandingError."""
    source = values.dtype
    if not _converts(values.name, source, target):
        raise LandingError(
            f"{file}: column {values.name} is {source} and must be {_wanted(values.name, target)}; "
            "write it as that" + _advice_for_ids(values.name)
        )
    if isinstance(source, pl.Datetime):
        # With a zone or without, what is stored counts from 1970 in UTC. (Polars panics on years that it cannot show.)
        values = values.to_physical().cast(pl.Datetime(source.time_unit))
    converted = values.cast(target, strict=False)
    is_lost = converted.is_null() & values.is_not_null()
    if source.is_float() and target.is_integer():
        values = values.fill_nan(None)
        # Beyond 2^53 a float stands for several integers.
        is_lost = values.is_not_null() & ((values != values.round()) | (values.abs() >= 2**53))
    lost = values.to_physical().filter(is_lost)
    if lost.len():
        raise LandingError(
            f"{file}: column {values.name} ({source}) has {lost.len()} values outside {target}, such as {lost[0]}; "
            "correct them" + _advice_for_ids(values.name)
        )
    return converted


def _converts(column: str, source: pl.DataType, target: pl.DataType) -> bool:
    if source == pl.Null:
        return True
    if target.is_integer():
        # Whole floats are how pandas writes integers among which some are missing.
        return source.is_integer() or source.is_float()
    if target.is_float():
        return source.is_numeric()
    if target == pl.String:
        return isinstance(source, pl.String | pl.Categorical | pl.Enum)
    if target == _TIMESTAMP:
        return isinstance(source, pl.Datetime) or (column == "created_at" and source == pl.Date)
    return isinstance(source, pl.List | pl.Array) and (source.inner.is_numeric() or source.inner == pl.Null)


def _wanted(column: str, target: pl.DataType) -> str:
    if isinstance(target, pl.List):
        return "a list of floats"
    if target == _TIMESTAMP:
        return "a timestamp or a date" if column == "created_at" else "a timestamp"
    return {pl.Int64(): "a 64-bit integer", pl.Int32(): "an integer", pl.String(): "text"}.get(target, "a number")


def _advice_for_ids(column: str) -> str:
    if column == "board_id":
        return ". Ids are 64-bit integers; number other ids"
    if column not in ("user_id", "pin_id"):
        return ""
    return (
        ". Ids are 64-bit integers; `python -m pinnersage_assets import-events` maps other ids to them and "
        "keeps the dictionary"
    )


def fitted_before(folder: Path) -> Day | None:
    """The day before which all actions lie that embeddings were fitted to; None where nobody says.

    Args:
        folder: the landing folder. A line ``fitted_before = 2026-03-01`` in its ``vectors.toml`` says so.

    Raises:
        LandingError: the file cannot be read, or says no day; names it.
    """
    path = folder / _VECTORS_FILE
    if not path.exists():
        return None
    try:
        day = tomllib.loads(path.read_text(encoding="utf-8")).get("fitted_before")
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise LandingError(f"{path} cannot be read: {error}") from error
    if not isinstance(day, datetime.date) or isinstance(day, datetime.datetime):
        raise LandingError(f"{path} must have a line such as fitted_before = 2026-03-01; it says {day!r}")
    return day


def record_fit(folder: Path, before: Day | None) -> None:
    """Write down up to when embeddings were fitted, for `fitted_before`; None: not to actions in this folder."""
    if before is None:
        (folder / _VECTORS_FILE).unlink(missing_ok=True)
        return
    with written_atomically(folder / _VECTORS_FILE) as path:
        path.write_text(
            f"# Embeddings were fitted to actions before this day; nothing earlier is evaluated.\n"
            f"fitted_before = {before.isoformat()}\n",
            encoding="utf-8",
        )
