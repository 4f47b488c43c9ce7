"""What a partition was made from, so that it is known when that has changed.

Times do not say so: whoever makes a day again writes all its partitions anew, and most have the rows that they had. So
the ledger has a digest of the rows of every partition, and of every partition the digests of what it was made from, one
a table that it reads. Where today's digests are others, it is stale.
"""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import dagster as dg
import duckdb

from pinnersage_assets.warehouse.ledger import LEDGER
from pinnersage_assets.warehouse.tables import Table

Digests = Mapping[datetime.date, Mapping[str, int]]
"""Of each day what stands for its inputs, by name."""

# Digests are sums, so that no order matters; they are kept to 64 bits.
_DIGEST = "(sum({}) % 18446744073709551616)::UBIGINT"


@dataclass(frozen=True)
class Input:
    """A table that another one reads: of day d the partitions from d + first to d + last."""

    table: str
    first: int
    last: int


def inputs_of(spec: dg.AssetSpec) -> list[Input]:
    """The tables that an asset declares to read. All mappings are of time windows, as `partitions.reads` makes them."""
    found = []
    for dep in spec.deps:
        first, last = (getattr(dep.partition_mapping, name, 0) for name in ("start_offset", "end_offset"))
        found.append(Input(".".join(dep.asset_key.path), first, last))
    return found


def content_digest(table: Table) -> str:
    """SQL over a partition of a table: the digest of its rows. What is no result is left out.

    DuckDB promises no hash for ever: after an upgrade that changes it everything is stale once.
    """
    return _DIGEST.format(f"hash({', '.join(column.name for column in table.columns if column.is_result)})")


def register_reads(connection: duckdb.DuckDBPyConnection, reads: Mapping[str, Iterable[Input]]) -> None:
    """Make the temporary table ``reads`` (table_name, input, first_offset, last_offset) for `input_digests`."""
    rows = [(table, read.table, read.first, read.last) for table, inputs in reads.items() for read in inputs]
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE reads "
        "(table_name VARCHAR, input VARCHAR, first_offset INTEGER, last_offset INTEGER)"
    )
    if rows:
        connection.executemany("INSERT INTO reads VALUES (?, ?, ?, ?)", rows)


# Of the partitions ``some`` (table_name, dt) and the tables that they read: the digest of what is there now. ``unseen``
# is a condition on rows of the ledger of whose rows it is not known whether they were read.
_INPUT_DIGESTS = f"""
    SELECT s.table_name, s.dt, r.input,
        {_DIGEST.format("hash(i.dt, CASE WHEN {unseen} THEN NULL ELSE i.content END)")} AS digest
    FROM {{some}} AS s JOIN reads AS r ON s.table_name = r.table_name
    JOIN {LEDGER} AS i
        ON i.table_name = r.input AND i.dt BETWEEN s.dt + r.first_offset AND s.dt + r.last_offset
    GROUP BY ALL
"""


def input_digests(some: str) -> str:
    """SQL: table_name, dt, input and digest of what partitions would be made from now.

    Args:
        some: SQL of a table (table_name, dt).
    """
    return _INPUT_DIGESTS.format(some=some, unseen="false")


def record_inputs(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    days: Sequence[datetime.date],
    reads: Sequence[Input],
    run_id: str,
    began: int | None,
    others: Digests,
) -> None:
    """Enter in the ledger what some partitions were made from, in the transaction that writes them.

    What another run has written since this one began may or may not have been read: the partition is stale then.

    Args:
        connection: in the transaction; the partitions are in the ledger.
        table: whose partitions.
        days: which.
        reads: the tables that were read.
        run_id: of this run.
        began: the number of the last write when this run began; None where nobody else can have written since.
        others: what was read that is no table, by day and name.
    """
    register_reads(connection, {table: reads})
    unseen = "i.run_id <> $run_id AND i.write_number > $began"
    some = f"(SELECT table_name, dt FROM {LEDGER} WHERE table_name = $table AND dt BETWEEN $first AND $last)"
    connection.execute(
        f"""
        WITH digests AS ({_INPUT_DIGESTS.format(some=some, unseen=unseen)})
        UPDATE {LEDGER} AS p SET inputs = coalesce(
            (SELECT map(list(d.input ORDER BY d.input), list(d.digest ORDER BY d.input))
             FROM digests AS d WHERE d.dt = p.dt),
            MAP {{}}
        )
        WHERE table_name = $table AND dt BETWEEN $first AND $last
        """,
        {"table": table, "first": days[0], "last": days[-1], "run_id": run_id, "began": began},
    )
    if others:
        connection.executemany(
            f"UPDATE {LEDGER} SET inputs = map_concat(inputs, map([?], [?::UBIGINT])) WHERE table_name = ? AND dt = ?",
            [(name, digest, table, day) for day, found in others.items() for name, digest in found.items()],
        )
