"""``operations.stale_partitions``: what is not made from what is there now.

Dagster's own marks of what is out of date end at a hundred partitions, and a window of 90 days, or a history, has soon
more. The ledger knows what each partition was made from (`warehouse.inputs`), and here it is held against what there is
now. Settings are not looked at: who changes them says what is to be made again, with ``AGAIN=1``.
"""

from collections.abc import Sequence
from typing import Any

import dagster as dg
import duckdb
import polars as pl

from pinnersage_assets.partitions import DAILY, after
from pinnersage_assets.settings import Settings
from pinnersage_assets.sources.source import Source
from pinnersage_assets.warehouse.checks import PartitionCheck
from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.inputs import input_digests, inputs_of, register_reads
from pinnersage_assets.warehouse.ledger import EXPIRED, LEDGER

TABLE = "operations.stale_partitions"

# Of the partitions that assets made: what was read of each input, and what would be read now. One that has expired is
# of no use to anybody, but a raw one whose files have changed is: late actions have come.
_STALE = f"""
    WITH made AS (
        SELECT p.* FROM {LEDGER} AS p JOIN versions AS v ON p.table_name = v.table_name
        WHERE p.inputs IS NOT NULL AND (p.status <> '{EXPIRED}' OR starts_with(p.table_name, 'raw.'))
    ),
    was AS (
        SELECT table_name, dt, entry.key AS input, entry.value AS digest
        FROM (SELECT table_name, dt, unnest(map_entries(inputs)) AS entry FROM made)
    ),
    now AS (
        ({input_digests("made")})
        UNION ALL BY NAME
        -- Of files that are gone nothing can be made.
        FROM states WHERE digest <> 0
    ),
    changed AS (
        SELECT coalesce(was.table_name, now.table_name) AS table_name, coalesce(was.dt, now.dt) AS dt,
            coalesce(was.input, now.input) AS input
        FROM was FULL JOIN now ON was.table_name = now.table_name AND was.dt = now.dt AND was.input = now.input
        WHERE was.digest IS DISTINCT FROM now.digest AND NOT (
            now.digest IS NULL AND was.input IN (SELECT input FROM states)
        )
    ),
    since AS (
        SELECT m.table_name, m.dt, c.input, min(i.dt) AS first_changed, max(i.dt) AS last_changed
        FROM changed AS c JOIN made AS m ON c.table_name = m.table_name AND c.dt = m.dt
        LEFT JOIN reads AS r ON r.table_name = c.table_name AND r.input = c.input
        LEFT JOIN {LEDGER} AS i ON i.table_name = c.input AND i.write_number > m.write_number
            AND i.dt BETWEEN c.dt + r.first_offset AND c.dt + r.last_offset
        GROUP BY m.table_name, m.dt, c.input
    )
    SELECT table_name, dt AS stale_dt, input, first_changed, last_changed,
        CASE
            WHEN input = 'landing' THEN 'its landing files have changed'
            WHEN input = 'simulation' THEN 'the settings of the simulation have changed'
            WHEN first_changed IS NULL THEN format('rows of {{}} have changed', input)
            WHEN first_changed = last_changed THEN format('rows of {{}} have changed: {{}}', input, first_changed)
            ELSE format('rows of {{}} have changed: {{}} to {{}}', input, first_changed, last_changed)
        END AS reason
    FROM since
    UNION ALL
    SELECT m.table_name, m.dt, 'code', NULL, NULL,
        format(
            'version {{}} of its code made it, and it is {{}} now',
            coalesce(m.code_version, '?'), coalesce(v.code_version, '?')
        )
    FROM made AS m JOIN versions AS v ON m.table_name = v.table_name
    WHERE m.code_version IS DISTINCT FROM v.code_version AND m.status <> '{EXPIRED}'
    ORDER BY stale_dt, table_name, input
"""


def find_stale(
    connection: duckdb.DuckDBPyConnection, specs: Sequence[dg.AssetSpec], source: Source, settings: Settings
) -> pl.DataFrame:
    """The partitions that would be made from something else now.

    Args:
        connection: of the warehouse.
        specs: of the assets whose partitions are looked at; those that tell of other partitions are passed over.
        source: whose files raw partitions are held against.
        settings: those of the simulation are what simulated data is made from.

    Returns:
        table_name, stale_dt, input, first_changed, last_changed and reason, the earliest first.
    """
    by_table = {".".join(spec.key.path): spec for spec in specs if spec.key.path[0] != TABLE.partition(".")[0]}
    register_reads(connection, {table: inputs_of(spec) for table, spec in by_table.items()})
    connection.register("versions", _frame([(t, s.code_version) for t, s in by_table.items()], _VERSIONS))
    days = connection.execute(f"SELECT table_name, dt FROM {LEDGER} WHERE starts_with(table_name, 'raw.')").fetchall()
    states = []
    for table in {table for table, _ in days}:
        own = [day for other, day in days if other == table]
        found = source.state(settings, table.removeprefix("raw."), own)
        states += [(table, day, name, digest) for day, of_day in found.items() for name, digest in of_day.items()]
    connection.register("states", _frame(states, _STATES))
    try:
        return connection.sql(_STALE).pl()
    finally:
        connection.unregister("versions")
        connection.unregister("states")


_VERSIONS = pl.Schema({"table_name": pl.String, "code_version": pl.String})
_STATES = pl.Schema({"table_name": pl.String, "dt": pl.Date, "input": pl.String, "digest": pl.UInt64})


def _frame(rows: list[tuple[Any, ...]], schema: pl.Schema) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=schema, orient="row")


def stale_partitions(specs: Sequence[dg.AssetSpec]) -> dg.AssetsDefinition:
    """The asset; it comes after all others but the publication."""

    @dg.asset(
        key=TABLE.split("."),
        partitions_def=DAILY,
        deps=after(specs),
        kinds={"sql"},
        description="Which partitions are not made from what is there now, and why.",
        code_version="1",
    )
    def stale_partitions(warehouse: Warehouse, source: Source, settings: Settings) -> pl.DataFrame:
        """List them, whatever their day."""
        with warehouse.get_reader() as connection:
            return find_stale(connection, specs, source, settings)

    return stale_partitions


NOTHING_IS_STALE = PartitionCheck(
    "nothing_is_stale",
    "Every partition is made from what is there now.",
    f"SELECT * FROM {TABLE} WHERE dt BETWEEN $first AND $last",
    blocking=False,
    advice="Make them again with `make backfill STALE=1`, which lists what it does.",
)


CHECKS = {TABLE: [NOTHING_IS_STALE]}
