"""The importer of event logs: a CSV or Parquet file with a user, an item and a time becomes landing folders.

What belongs here: finding item vectors, writing the days, and accounting for every row. What does not: reading a file
(``event_files``), numbering what is not an integer (``dictionaries``), what a particular data set means by its columns
(``online_retail``). A file is held in memory.
"""

import datetime
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from pinnersage_assets.model.cooccurrence import cooccurrence_vectors
from pinnersage_assets.sources.dictionaries import dictionary_path, extended_dictionary, numbers
from pinnersage_assets.sources.event_files import id_text, is_parquet, read_table, require_columns, timestamps
from pinnersage_assets.sources.landing import (
    LandingSource,
    day_folder,
    fitted_before,
    landed_days,
    record_fit,
    write_day,
    write_parquet_atomically,
)


@dataclass(frozen=True)
class ImportReport:
    """What an import did; rows_read is rows_written plus all that was refused."""

    rows_read: int
    rows_written: int
    refused: dict[str, int]  # reason -> rows; the rows themselves are in refused/<name of the source>.parquet
    users: int
    items: int
    pins: int  # items written to landing/pins: those seen for the first time, with a vector
    items_without_vector: int  # their actions are written, but nothing can recommend or cluster them
    vectors_without_events: int  # items of the vectors file that nobody acted on; they are not written
    days: int
    first_day: datetime.date
    last_day: datetime.date


@dataclass(frozen=True)
class VectorOptions:
    """Where item vectors come from: a file, or the co-occurrence of items in baskets before a day.

    Raises:
        ValueError: neither or both are given.
    """

    file: Path | None = None  # Parquet: the item column and `embedding`, a list of floats
    before: datetime.date | None = None
    dimensions: int = 64
    seed: int = 0

    def __post_init__(self):
        if (self.file is None) == (self.before is None):
            raise ValueError(
                "give either vectors (a Parquet file with the item column and `embedding`) or vectors_before "
                "(the day before which vectors are fitted; judge them on that day and later)"
            )


def import_events(
    source: Path,
    folder: Path,
    user_column: str,
    item_column: str,
    time_column: str,
    *,
    action_column: str | None = None,
    title_column: str | None = None,
    basket_column: str | None = None,
    vectors: Path | None = None,
    vectors_before: datetime.date | None = None,
    dimensions: int = 64,
    seed: int = 0,
    replace: bool = False,
) -> ImportReport:
    """Turn a file of events into landing folders.

    Times are ISO 8601 text, timestamps, dates, or numbers (epoch seconds or milliseconds); without a zone
    they are taken as UTC. Ids that are all 64-bit integers are kept. Otherwise they are numbered by first
    appearance in the
    order of (time, row), and ``dictionaries/users.parquet`` or ``items.parquet`` (id, original) keeps the
    numbers: further imports into the folder use and extend it. A pin is landed on the day of its first event,
    under the title that it has most often in the file. Import several files in the order of their days: a pin
    stays where it landed first.

    Rows without a user, item, time or action, or whose time cannot be read, are refused: counted by reason,
    and written to ``refused/<name of the source>.parquet`` (row, counted from 0; reason; original). Importing
    a source of the same name again replaces that file. Days are written one by one, so after an interrupted
    import call again with `replace`.

    Args:
        source: a ``.csv`` (comma-separated UTF-8 with a header; also ``.csv.gz``) or ``.parquet`` file.
        folder: the landing folder, ``<data dir>/landing``.
        user_column: who acted.
        item_column: on what.
        time_column: when.
        action_column: what they did; without it, every event is a ``click``.
        title_column: how an item is called.
        basket_column: events that belong together, for fitting vectors; a null is no basket. Without it, the
            events of a user on a day.
        vectors: a Parquet file with the item column and `embedding`; vectors are handed on as they are.
        vectors_before: without `vectors`: fit them to the events before this day (UTC). Items that appear
            later have none. ``vectors.toml`` records the day: nothing before it is evaluated.
        dimensions: length of fitted vectors.
        seed: of the fit.
        replace: overwrite days that exist. Days that this source does not touch always stay.

    Raises:
        ValueError: a file is missing, unreadable or of an unknown format; a column is missing or of a wrong
            type; a day exists; no row can be used; vectors cannot be fitted, or would not fit those that are
            there.
    """
    options = VectorOptions(vectors, vectors_before, dimensions, seed)
    table = read_table(source)
    columns = [user_column, item_column, time_column, action_column, title_column, basket_column]
    require_columns(table, [column for column in columns if column is not None], source)
    time, time_problem = timestamps(table[time_column], numbers_are_text=not is_parquet(source))
    nothing = pl.repeat(None, table.height, dtype=pl.String, eager=True)
    events = pl.DataFrame(
        {
            "user": id_text(table[user_column]),
            "item": id_text(table[item_column]),
            "ts": time,
            "action": id_text(table[action_column]) if action_column else pl.repeat("click", table.height, eager=True),
            "title": id_text(table[title_column]) if title_column else nothing,
            "time_problem": time_problem,
        }
    )
    basket = (
        pl.lit(id_text(table[basket_column]))
        if basket_column
        else pl.format("{} {}", pl.col("ts").dt.date(), pl.col("user"))
    )
    events = events.with_columns(basket.alias("basket"), _refusal().alias("reason"))
    return land_events(events, table, source.name, folder, options, item_column, replace)


def _refusal() -> pl.Expr:
    """Say why a row (user, item, ts, action, time_problem) cannot be an action; null if it can."""
    return (
        pl.when(pl.col("user").is_null())
        .then(pl.lit("user_missing"))
        .when(pl.col("item").is_null())
        .then(pl.lit("item_missing"))
        .when(pl.col("ts").is_null())
        .then(pl.col("time_problem"))
        .when(pl.col("action").is_null())
        .then(pl.lit("action_missing"))
    )


def land_events(
    events: pl.DataFrame,
    originals: pl.DataFrame,
    source_name: str,
    folder: Path,
    options: VectorOptions,
    item_column: str,
    replace: bool,
) -> ImportReport:
    """Write prepared events to the landing folder; see `import_events`.

    Args:
        events: user, item, action, title, basket String, ts Datetime (microseconds, UTC), reason String: null
            for the rows to write, else why not. Those to write have a user, item, ts and action.
        originals: the same rows as they were read, for those refused.
        source_name: name of the file that they came from.
        folder: the landing folder.
        options: where vectors come from.
        item_column: the vectors file's column of item ids.
        replace: overwrite days that exist.

    Raises:
        ValueError: as for `import_events`.
    """
    accepted = (
        events.filter(pl.col("reason").is_null())
        .with_columns(pl.col("ts").dt.date().alias("day"))
        .sort("ts", maintain_order=True)
    )
    refused = dict(events["reason"].drop_nulls().value_counts().sort("count", descending=True).iter_rows())
    if accepted.is_empty():
        _write_refused(events, originals, source_name, folder)
        raise ValueError(f"{source_name} has no row that can be used: {refused or 'it is empty'}; see {folder}/refused")

    days = accepted["day"].unique().sort().to_list()
    other_days = _other_days(folder, days, replace)
    users = extended_dictionary(folder, "users", accepted["user"], other_days)
    items = extended_dictionary(folder, "items", accepted["item"], other_days)
    accepted = accepted.with_columns(
        numbers(accepted["user"], users).alias("user_id"), numbers(accepted["item"], items).alias("pin_id")
    )
    catalogue = _catalogue(accepted)
    landed = _landed_pins(folder, other_days)
    vectors = _vectors(accepted, items, landed, options, item_column)
    pins = catalogue.join(vectors, on="pin_id", how="inner", maintain_order="left").join(
        landed, on="pin_id", how="anti"
    )

    for name, dictionary in (("users", users), ("items", items)):
        if dictionary is not None:
            write_parquet_atomically(dictionary, dictionary_path(folder, name))
    _write_refused(events, originals, source_name, folder)
    fitted = options.before if len(vectors) else None
    known = fitted_before(folder)
    if fitted:
        # Before the days: vectors that are there are never taken for fitted to less than they were.
        record_fit(folder, max(fitted, known or fitted))
    _write_days(folder, "pins", days, pins)
    _write_days(folder, "actions", days, accepted.select("day", "user_id", "pin_id", "action", "ts"))
    if landed.is_empty():
        # No other vectors are left, of which something else may be true.
        record_fit(folder, fitted)

    return ImportReport(
        rows_read=events.height,
        rows_written=accepted.height,
        refused=refused,
        users=accepted["user_id"].n_unique(),
        items=catalogue.height,
        pins=pins.height,
        items_without_vector=catalogue.join(pl.concat([landed, pins.select("pin_id")]), on="pin_id", how="anti").height,
        vectors_without_events=vectors.join(catalogue, on="pin_id", how="anti", nulls_equal=False).height,
        days=len(days),
        first_day=days[0],
        last_day=days[-1],
    )


def _other_days(folder: Path, days: list[datetime.date], replace: bool) -> list[datetime.date]:
    """Return the landed days that this import leaves alone, or raise if it would overwrite any unasked."""
    written = {*landed_days(folder, "actions"), *landed_days(folder, "pins")}
    existing = sorted(written.intersection(days))
    if existing and not replace:
        raise ValueError(
            f"{folder} already has {len(existing)} of the {len(days)} days to write ({existing[0]} to "
            f"{existing[-1]}); ask to replace them, or import into another data directory"
        )
    others = (landed_days(folder, table) for table in ("impressions", "board_pins"))
    return sorted(written.union(*others).difference(days))


def _catalogue(accepted: pl.DataFrame) -> pl.DataFrame:
    """Make one row an item, in order of first appearance: pin_id, created_at, day, title.

    The title is the most frequent one, and of equally frequent ones the earliest.
    """
    titles = (
        accepted.filter(pl.col("title").is_not_null())
        .group_by("pin_id", "title", maintain_order=True)
        .len()
        .sort("len", descending=True, maintain_order=True)
        .unique("pin_id", keep="first", maintain_order=True)
        .select("pin_id", "title")
    )
    first = (
        accepted.group_by("pin_id", maintain_order=True).agg(pl.col("ts", "day").first()).rename({"ts": "created_at"})
    )
    return first.join(titles, on="pin_id", how="left", maintain_order="left")


def _landed_pins(folder: Path, days: list[datetime.date]) -> pl.DataFrame:
    landing = LandingSource(folder)
    ids = [landing.pins(day).select("pin_id") for day in days if day_folder(folder, "pins", day).exists()]
    return pl.concat([pl.DataFrame(schema={"pin_id": pl.Int64}), *ids]).drop_nulls().unique()


def _vectors(
    accepted: pl.DataFrame,
    items: pl.DataFrame | None,
    landed: pl.DataFrame,
    options: VectorOptions,
    item_column: str,
) -> pl.DataFrame:
    """Find (pin_id Int64, embedding List(Float32)); pin_id is null for items of the file that have no number."""
    if options.file is not None:
        return _vectors_of_file(options.file, item_column, items)
    fit = accepted.filter((pl.col("day") < options.before) & pl.col("basket").is_not_null())
    if landed.height and fit.height:
        # Two fits have two sets of axes: a cosine between their vectors means nothing.
        raise ValueError(
            f"the landing folder already has {landed.height} pins, and vectors fitted now would not be comparable "
            f"with theirs: give a file of vectors, or a vectors_before of at most {accepted['day'][0]} (new items then "
            "come without vectors), or import everything at once into another data directory"
        )
    if landed.height:
        return pl.DataFrame(schema={"pin_id": pl.Int64, "embedding": pl.List(pl.Float32)})
    if fit.is_empty():
        raise ValueError(
            f"no event before {options.before} to fit vectors to: events span {accepted['day'][0]} to "
            f"{accepted['day'][-1]}; choose a later vectors_before, or give a file of vectors"
        )
    pin_ids = fit["pin_id"].unique(maintain_order=True)
    rows = pin_ids.to_frame().with_row_index("index")
    item_rows = fit.join(rows, on="pin_id", how="left", maintain_order="left")["index"]
    baskets = fit["basket"].rank("dense")
    embedding = cooccurrence_vectors(
        baskets.to_numpy(), item_rows.to_numpy(), pin_ids.len(), options.dimensions, options.seed
    )
    fitted = pl.DataFrame({"pin_id": pin_ids, "embedding": embedding}).filter(np.any(embedding, axis=1))
    return fitted.with_columns(pl.col("embedding").arr.to_list())


def _vectors_of_file(path: Path, item_column: str, items: pl.DataFrame | None) -> pl.DataFrame:
    if not is_parquet(path):
        raise ValueError(f"{path}: vectors must be a Parquet file with the columns {item_column} and embedding")
    table = read_table(path)
    require_columns(table, [item_column, "embedding"], path)
    dtype = table["embedding"].dtype
    if not (isinstance(dtype, pl.List | pl.Array) and dtype.inner.is_numeric()):
        raise ValueError(f"{path}: embedding is {dtype}; it must be a list of floats")
    originals = id_text(table[item_column])
    if originals.null_count():
        raise ValueError(f"{path}: {originals.null_count()} vectors have no {item_column}; remove them")
    if originals.n_unique() < originals.len():
        raise ValueError(
            f"{path}: {item_column} {originals.filter(originals.is_duplicated())[0]!r} has several vectors; keep one"
        )
    numbered = pl.DataFrame(
        {"pin_id": numbers(originals, items), "embedding": table["embedding"].cast(pl.List(pl.Float32))}
    )
    return numbered.filter(pl.col("embedding").is_not_null())


def _write_refused(events: pl.DataFrame, originals: pl.DataFrame, source_name: str, folder: Path) -> None:
    path = folder / "refused" / f"{source_name}.parquet"
    refused = pl.DataFrame(
        {
            "row": pl.int_range(events.height, dtype=pl.Int64, eager=True),
            "reason": events["reason"],
            "original": originals.to_struct(),
        }
    ).filter(pl.col("reason").is_not_null())
    if refused.height:
        write_parquet_atomically(refused, path)
    else:
        path.unlink(missing_ok=True)


def _write_days(folder: Path, table: str, days: list[datetime.date], rows: pl.DataFrame) -> None:
    """Write each day's rows; a day without rows gets a file only where it has to replace one."""
    parts = rows.partition_by("day", as_dict=True, include_key=False, maintain_order=True)
    for day in days:
        part = parts.get((day,), rows.drop("day").clear())
        if part.height or day_folder(folder, table, day).exists():
            write_day(folder, table, day, part, replace=True)
