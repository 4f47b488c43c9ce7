"""Reading a file of events: its table, its ids as text, its times."""

import datetime
from collections.abc import Sequence
from pathlib import Path

import polars as pl
from polars.exceptions import PanicException, PolarsError

# Numeric times are seconds from 1973-03-03 on, up to the number that means the same day in milliseconds. So a
# number has one reading, and a date written 20260131, a year or a row number has none.
_EPOCH_SECONDS = (1e8, 1e11)
_EPOCH_MILLISECONDS = (1e11, 1e14)
_ISO_TIME = (
    r"^\s*(?<date>\d{4}-\d{2}-\d{2})(?:[T ](?<minute>\d{2}:\d{2})(?<second>:\d{2})?(?<fraction>\.\d{1,9})?)?"
    r"\s*(?<zone>Z|[+-]\d{2}(?::?\d{2})?)?\s*$"
)


def read_table(source: Path) -> pl.DataFrame:
    """Read the whole file; all columns of a CSV file are text, so that nothing is guessed from a few rows.

    Raises:
        ValueError: the file is missing, of an unknown format, or cannot be read.
    """
    if not source.is_file():
        raise ValueError(f"{source} is not a file")
    try:
        if is_parquet(source):
            return pl.read_parquet(source, glob=False, hive_partitioning=False)
        if source.name.lower().endswith((".csv", ".csv.gz")):
            return pl.read_csv(source, infer_schema=False, glob=False)
    except (PolarsError, PanicException, OSError) as error:
        expected = "Parquet" if is_parquet(source) else "comma-separated UTF-8 with a header"
        raise ValueError(f"{source} cannot be read as {expected}: {error}") from error
    raise ValueError(f"{source} is of an unknown format; it must end in .csv, .csv.gz or .parquet")


def require_columns(table: pl.DataFrame, columns: Sequence[str], source: Path) -> None:
    """Raise a ValueError, which says which columns are missing, and which there are."""
    if missing := [column for column in columns if column not in table.columns]:
        raise ValueError(f"{source} has no column {', '.join(missing)}; it has {', '.join(table.columns) or 'none'}")


def id_text(values: pl.Series) -> pl.Series:
    """Return ids as text, the same text whatever type a file gives them; blank text and NaN are null.

    Floats that are all whole are integers: so pandas writes integers among which some are missing.

    Raises:
        ValueError: the type is one that cannot be an id, such as a list.
    """
    if values.dtype.is_float():
        values = values.fill_nan(None)
        if (values.is_null() | ((values == values.floor()) & (values.abs() <= 2.0**53))).all():
            values = values.cast(pl.Int64)
    elif values.dtype.is_nested() or values.dtype in (pl.Binary, pl.Object):
        raise ValueError(f"column {values.name} is {values.dtype}; it must be text, integers or the like")
    text = values.cast(pl.String)
    return text.set(text.str.strip_chars() == "", None)


def timestamps(values: pl.Series, numbers_are_text: bool) -> tuple[pl.Series, pl.Series]:
    """Read times as Datetime (microseconds, UTC), and why there is none: time_missing, _unparseable,
    _out_of_range or null.

    Args:
        values: timestamps, dates, ISO 8601 text, or numbers of seconds or milliseconds since 1970.
        numbers_are_text: text may also hold such numbers, because the file has no types.

    Raises:
        ValueError: the column is of another type.
    """
    dtype = values.dtype
    if isinstance(dtype, pl.Datetime):
        # With a zone or without, what is stored counts from 1970 in UTC. (Polars panics on years that it cannot show.)
        time = values.to_physical().cast(pl.Datetime(dtype.time_unit)).cast(pl.Datetime("us"), strict=False)
        read = values.is_not_null()
    elif dtype in (pl.Date, pl.Null):
        time = values.cast(pl.Datetime("us"))
        read = values.is_not_null()
    elif dtype.is_numeric():
        values = values.cast(pl.Float64).fill_nan(None)
        time, read = _epoch(values), values.is_not_null()
    elif isinstance(dtype, pl.String | pl.Categorical | pl.Enum):
        values = id_text(values)
        numbers = (
            values.cast(pl.Float64, strict=False)
            if numbers_are_text
            else pl.repeat(None, values.len(), dtype=pl.Float64, eager=True)
        )
        time = pl.select(pl.coalesce(_iso_time(values), _epoch(numbers))).to_series()
        read = time.is_not_null() | numbers.is_finite().fill_null(False)
    else:
        raise ValueError(f"column {values.name} is {dtype}; times must be timestamps, dates, ISO 8601 text or numbers")
    in_range = time.is_between(datetime.datetime.min, datetime.datetime.max).fill_null(False)
    problem = pl.select(
        pl.when(values.is_null())
        .then(pl.lit("time_missing"))
        .when(~read)
        .then(pl.lit("time_unparseable"))
        .when(~in_range)
        .then(pl.lit("time_out_of_range"))
    ).to_series()
    return time.set(~in_range, None), problem


def _epoch(numbers: pl.Series) -> pl.Series:
    microseconds = (
        pl.when(numbers.is_between(*_EPOCH_SECONDS, closed="left"))
        .then(numbers * 1e6)
        .when(numbers.is_between(*_EPOCH_MILLISECONDS, closed="left"))
        .then(numbers * 1e3)
    )
    return pl.select(microseconds.round().cast(pl.Int64).cast(pl.Datetime("us"))).to_series()


def _iso_time(text: pl.Series) -> pl.Series:
    # One column may mix days, minutes, fractions and zones: bring them to one form, as one format reads one
    # form.
    parts = text.str.extract_groups(_ISO_TIME).struct.unnest()
    zone = pl.col("zone").replace("Z", "+00:00").fill_null("+00:00")
    form = pl.concat_str(
        pl.col("date"),
        pl.lit(" "),
        pl.col("minute").fill_null("00:00"),
        pl.col("second").fill_null(":00"),
        pl.col("fraction").fill_null(".0"),
        pl.when(zone.str.len_chars() == 3).then(zone + "00").otherwise(zone),
    )
    time = form.str.to_datetime("%Y-%m-%d %H:%M:%S%.f%z", time_unit="us", time_zone="UTC", strict=False)
    return parts.select(time.dt.replace_time_zone(None)).to_series()


def is_parquet(source: Path) -> bool:
    """Whether a file says by its name that it is Parquet."""
    return source.name.lower().endswith((".parquet", ".pq"))
