"""What the UI shows of a partition besides its rows: a few figures, and a chart where one says more.

They are declared with the table in schema.yml, under ``config: meta:``, as SQL over ``partition``, which stands for the
rows of a partition. A chart has a bar a row: the first column is its label, each further one a series::

    figures: {users: count(distinct user_id)}
    chart: {title: Pins a topic, query: "select category, count(*) as pins from partition group by all order by all"}
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
) -> dict[datetime.date, dict[str, Any]]:
    """Metadata of the materialisations of some consecutive days.

    A run of many days gets no charts: drawing a hundred would take longer than the run.
    """
    rows = f"WITH partition AS (FROM {table.key} WHERE dt BETWEEN $first AND $last)"
    parameters = {"first": days[0], "last": days[-1]}
    figures, chart = table.meta.get("figures", {}), table.meta.get("chart")
    expressions = ", ".join(["dt", "count(*)", *figures.values()])
    found = connection.execute(f"{rows} SELECT {expressions} FROM partition GROUP BY dt", parameters).fetchall()
    metadata: dict[datetime.date, dict[str, Any]] = {day: {"dagster/partition_row_count": 0} for day in days}
    for day, count, *values in found:
        metadata[day] = {"dagster/partition_row_count": count}
        metadata[day] |= {name: _readable(value) for name, value in zip(figures, values, strict=True)}
    if chart and found and len(days) == 1:
        bars = connection.execute(f"{rows} {chart['query']}", parameters)
        names = [name for name, *_ in bars.description]
        if series := list(zip(*bars.fetchall(), strict=True)):
            picture = bar_chart(series[0], dict(zip(names[1:], series[1:], strict=True)), chart["title"])
            metadata[days[0]]["chart"] = dg.MetadataValue.md(picture)
    return metadata


def _readable(value: Any) -> Any:
    if value is None:
        return dg.MetadataValue.null()
    return float(f"{value:.4g}") if isinstance(value, float) else value
