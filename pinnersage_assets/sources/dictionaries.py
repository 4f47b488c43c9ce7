"""Numbers for ids that are not integers, and the dictionaries that keep what they stand for."""

import datetime
from pathlib import Path

import polars as pl

from pinnersage_assets.sources.event_files import read_table

_INTEGER = r"^(0|-?[1-9]\d{0,18})$"


def dictionary_path(folder: Path, name: str) -> Path:
    """Where the dictionary of ``users`` or ``items`` is kept."""
    return folder / "dictionaries" / f"{name}.parquet"


def extended_dictionary(
    folder: Path, name: str, originals: pl.Series, other_days: list[datetime.date]
) -> pl.DataFrame | None:
    """Give originals numbers: (id Int64, original String); None if all are integers, which stay."""
    path = dictionary_path(folder, name)
    if path.exists():
        dictionary = read_table(path)
    elif _are_integers(originals):
        return None
    elif other_days:
        raise ValueError(
            f"{folder} has days ({other_days[0]} and others) whose {name} have integer ids of their own, which "
            f"numbers for ids such as {originals[0]!r} could collide with: import into another data directory"
        )
    else:
        dictionary = pl.DataFrame(schema={"id": pl.Int64, "original": pl.String})
    new = originals.unique(maintain_order=True).to_frame("original").join(dictionary, on="original", how="anti")
    first = dictionary.select(pl.max("id")).item() + 1 if dictionary.height else 0
    ids = pl.int_range(first, first + new.height, dtype=pl.Int64, eager=True).alias("id")
    return pl.concat([dictionary, new.select(ids, "original")])


def known_numbers(folder: Path, name: str, originals: list[str]) -> list[int]:
    """The numbers that originals have.

    Raises:
        ValueError: one has none; names it.
    """
    path = dictionary_path(folder, name)
    if not originals:
        return []
    known = read_table(path).filter(pl.col("original").is_in(originals)) if path.exists() else None
    missing = set(originals) - set(known["original"] if known is not None else [])
    if missing or known is None:
        raise ValueError(f"no {name} were imported as {', '.join(map(repr, sorted(missing)))} (looked in {path})")
    return known["id"].to_list()


def _are_integers(texts: pl.Series) -> bool:
    return bool(texts.str.contains(_INTEGER).all()) and texts.cast(pl.Int64, strict=False).null_count() == 0


def numbers(originals: pl.Series, dictionary: pl.DataFrame | None) -> pl.Series:
    """Return the ids of originals, null where there is none."""
    if dictionary is None:
        return originals.set(~originals.str.contains(_INTEGER), None).cast(pl.Int64, strict=False)
    known = originals.to_frame("original").join(dictionary, on="original", how="left", maintain_order="left")
    return known["id"]
