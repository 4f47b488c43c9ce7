"""Rows of whole users as Parquet files of like size, and what was made of them as one partition's rows.

Both are done by DuckDB, which sorts on disk what does not fit into memory; no row passes through Python.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.partitions import ParquetFiles


@dataclass(frozen=True)
class Bucket:
    """A file with some of many rows: all of some users, those of a user together, or some pins."""

    key: str
    path: Path
    rows: int


class BucketError(RuntimeError):
    """Rows got lost, or came twice, on the way through buckets."""


def write_buckets(
    connection: duckdb.DuckDBPyConnection,
    query: str,
    owner: str,
    order: Sequence[str],
    rows_a_bucket: int,
    folder: Path,
) -> list[Bucket]:
    """Write the result of a query as buckets; the same rows become the same buckets.

    Args:
        connection: may be read-only.
        query: selects the rows, from temporary tables for example: it is executed twice.
        owner: the column by whose hash rows go into buckets.
        order: of the rows of an owner, columns.
        rows_a_bucket: >= 1, on average and at most.
        folder: exists; gets the files.

    Returns:
        The buckets; none is empty.
    """
    [(rows,)] = connection.execute(f"SELECT count(*) FROM ({query})").fetchall()
    number = max(1, -(-rows // rows_a_bucket))
    # Sorted by bucket, each is a run of row groups: copying one does not read the others.
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE bucket_rows AS SELECT *, (hash({owner}) % {number})::INTEGER AS bucket "
        f"FROM ({query}) ORDER BY bucket, {owner}, {', '.join(order)}"
    )
    sizes = connection.execute("SELECT bucket, count(*) FROM bucket_rows GROUP BY bucket ORDER BY bucket").fetchall()
    buckets = [Bucket(str(bucket), folder / f"{bucket:06}.parquet", size) for bucket, size in sizes]
    for bucket in buckets:
        write_parquet(connection, f"SELECT * EXCLUDE bucket FROM bucket_rows WHERE bucket = {bucket.key}", bucket.path)
    connection.execute("DROP TABLE bucket_rows")
    return buckets


def write_parquet(connection: duckdb.DuckDBPyConnection, query: str, path: Path) -> None:
    """Write the result of a query into a Parquet file."""
    connection.sql(query).write_parquet(str(path), compression="lz4")


def collect(
    warehouse: Warehouse,
    files: Sequence[Path],
    expected: Mapping[str, int],
    unique: Sequence[str],
    order: Sequence[str],
    ranks: tuple[str, str] | None = None,
) -> ParquetFiles:
    """Put files together as the rows of a partition, in an order that does not depend on what was in which file.

    Args:
        warehouse: on whose disk, and with whose memory; its database is not opened.
        files: one or more Parquet files with the same columns, in any order.
        expected: what aggregates must be, such as ``{"count(*)": 1000}``.
        unique: columns by which no two rows are the same.
        order: columns by which rows are sorted.
        ranks: an owner's column and that of ranks, which must be 1, 2, ... for each owner.

    Raises:
        BucketError: an aggregate is another, two rows are the same by ``unique``, or ranks are not as they must be.
    """
    with ParquetFiles.new(warehouse) as collected:
        config = {**warehouse.connection_config, "temp_directory": str(collected.folder / "spill")}
        with duckdb.connect(config={**config, "python_enable_replacements": False}) as connection:
            connection.execute("SET VARIABLE files = $files", {"files": [str(file) for file in files]})
            found = "read_parquet(getvariable('files'), hive_partitioning = false)"
            for aggregate, wanted in expected.items():
                [(there,)] = connection.execute(f"SELECT coalesce({aggregate}, 0)::BIGINT FROM {found}").fetchall()
                if there != wanted:
                    raise BucketError(
                        f"{aggregate} of the results is {there:,} and must be {wanted:,}: nothing is written"
                    )
            key = ", ".join(unique)
            repeated = connection.execute(f"SELECT {key} FROM {found} GROUP BY ALL HAVING count(*) > 1 LIMIT 1")
            if row := repeated.fetchone():
                raise BucketError(f"the results have ({key}) = {row} more than once: nothing is written")
            if ranks:
                owner, rank = ranks
                odd = connection.execute(
                    f"SELECT {owner} FROM {found} GROUP BY {owner} HAVING min({rank}) != 1 OR max({rank}) != count(*) "
                    f"OR count(DISTINCT {rank}) != count(*) LIMIT 1"
                )
                if row := odd.fetchone():
                    raise BucketError(f"the {rank}s of {owner} {row[0]} are not 1, 2, ...: nothing is written")
            write_parquet(connection, f"FROM {found} ORDER BY {', '.join(order)}", collected.folder / "000000.parquet")
    return collected
