"""What the UI shows of a partition besides its rows: a few figures, and a chart where one says more.

They are declared with the table in schema.yml, under ``config: meta:``, as SQL over ``partition``, which stands for the
rows that a run wrote::

    figures: {users: count(distinct user_id)}
    chart: {title: Pins a topic, query: "select category, count(*) from partition group by all order by all"}
"""

import datetime
from collections.abc import Sequence
from typing import Any

import dagster as dg
import duckdb

from pinnersage_assets.reports.charts import bar_chart
from pinnersage_assets.warehouse.tables import Table


def partition_metadata(
    connection: duckdb.DuckDBPyConnection, table: Table, days: Sequence[datetime.date]
) -> dict[str, Any]:
    """Metadata of a materialisation, from the rows of some consecutive days."""
    rows = f"WITH partition AS (FROM {table.key} WHERE dt BETWEEN $first AND $last)"
    parameters = {"first": days[0], "last": days[-1]}
    figures, chart = table.meta.get("figures", {}), table.meta.get("chart")
    expressions = ["count(*)", *figures.values()]
    [(count, *values)] = connection.execute(
        f"{rows} SELECT {', '.join(expressions)} FROM partition", parameters
    ).fetchall()
    metadata: dict[str, Any] = {"dagster/partition_row_count": count}
    metadata |= {name: dg.MetadataValue.null() if v is None else v for name, v in zip(figures, values, strict=True)}
    if chart and count:
        bars = connection.execute(f"{rows} {chart['query']}", parameters).fetchall()
        if bars:
            labels, heights = zip(*bars, strict=True)
            metadata["chart"] = dg.MetadataValue.md(bar_chart(labels, heights, chart["title"]))
    return metadata
