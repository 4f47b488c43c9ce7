"""Which columns a column is computed from, as the SQL of its model says, or ``sources/schema.yml`` of other tables.

That is what makes the value, the order and the parts of a window included. What only decides which rows there are is
not: joins, filters and groups. A column that counts rows, or holds a constant, is computed from none.

Nothing reads that out of Python, so whoever writes the code says it beside the column's description, under ``meta:
from``. There an id counts whose vector is looked up, and so does what a setting may bring in. The partition's day,
settings, paths, sizes and timings come from no column, and neither does what runs say of themselves. A file's checksum
comes from what the file holds; but for the page's, which shows whole tables.
"""

from collections.abc import Collection, Mapping, Sequence

import dagster as dg
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.lineage import Node, lineage

from pinnersage_assets.warehouse.sql_models import SqlModel
from pinnersage_assets.warehouse.tables import Table


def column_lineage(model: SqlModel, tables: Mapping[str, Table]) -> dg.TableColumnLineage | None:
    """The lineage of a model's columns; None if sqlglot, unlike DuckDB, does not understand the model."""
    schema: dict[str, dict[str, dict[str, str]]] = {}
    for table in (tables[key] for key in model.reads):
        schema.setdefault(table.schema, {})[table.name] = {column.name: column.type for column in table.columns}
    try:
        nodes = lineage(None, model.render(model.declared), schema=schema, dialect="duckdb", trim_selects=False)
    except (SqlglotError, ValueError):
        return None
    return dg.TableColumnLineage({column: _origins(node) for column, node in nodes.items()})


def declared_lineage(table: Table, reads: Collection[str]) -> dg.TableColumnLineage:
    """The lineage of a table that Python writes.

    Args:
        table: the table.
        reads: the tables that its asset reads under the present settings; others have no part in it.
    """
    return dg.TableColumnLineage(
        {
            column.name: [
                dg.TableColumnDep(dg.AssetKey(key.split(".")), name) for key, name in column.origins if key in reads
            ]
            for column in table.columns
        }
    )


def _origins(node: Node) -> list[dg.TableColumnDep]:
    found = {
        (source.db, source.name, leaf.name.rpartition(".")[2].strip('"'))
        for leaf in node.walk()
        if isinstance(source := leaf.source, exp.Table)
    }
    return [dg.TableColumnDep(dg.AssetKey([schema, table]), column) for schema, table, column in sorted(found)]


def in_words(origins: Sequence[dg.TableColumnDep]) -> str:
    """Such as ``From users.medoids (importance, size).``; empty without origins."""
    columns: dict[str, list[str]] = {}
    for origin in origins:
        columns.setdefault(".".join(origin.asset_key.path), []).append(origin.column_name)
    tables = [f"{table} ({', '.join(names)})" for table, names in columns.items()]
    return f"From {', '.join(tables)}." if tables else ""
