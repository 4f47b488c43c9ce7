"""The check that every earlier partition which a day reads is there and good.

Dagster runs a partition whose inputs have holes. A window with a missing day gives clusters that look fine and are
wrong, so a hole is a failed check, and its message says how to close it.
"""

import datetime

from pinnersage_assets.partitions import DAILY
from pinnersage_assets.warehouse.checks import PartitionCheck

# First and last day that a day reads of a table; the first partition bounds them all.
WINDOW = ("$last - ($window_days - 1)::INTEGER", "$last")
HISTORY = ("$start", "$last")
EARLIER = ("$start", "$last - 1")
YESTERDAY = ("$last - 1", "$last - 1")


def inputs_are_complete(**tables: tuple[str, str]) -> PartitionCheck:
    """A check for an asset that takes one day a run.

    Args:
        **tables: the days that are read of each table, the table written as ``staging__actions``.
    """
    needed = " UNION ALL ".join(
        f"""
        SELECT '{table.replace("__", ".")}' AS table_name,
            unnest(generate_series(greatest($start, ({first})::DATE), ({last})::DATE, INTERVAL 1 DAY))::DATE AS day
        """
        for table, (first, last) in tables.items()
    )
    return PartitionCheck(
        "inputs_are_complete",
        "Every earlier day that the partition reads has been materialised and has passed its checks.",
        f"""
        SELECT $last AS dt, n.table_name AS missing, count(*) AS days, min(n.day) AS first, max(n.day) AS last
        FROM ({needed}) AS n LEFT JOIN operations.partitions AS p
            ON p.table_name = n.table_name AND p.dt = n.day AND p.status = 'passed'
        WHERE p.dt IS NULL GROUP BY n.table_name
        """,
        advice="Close the gap with `make backfill FROM={day} TO={day}`.",
        reads=tuple(table.replace("__", ".") for table in tables),
        parameters=lambda settings: {
            "window_days": settings.window.days,
            "start": datetime.date.fromisoformat(DAILY.get_first_partition_key()),
        },
    )
