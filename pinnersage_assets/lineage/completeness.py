"""The check that every partition which a day reads is there and good.

Dagster runs a partition whose inputs have holes. A window with a missing day gives clusters that look fine and are
wrong, so a hole is a failed check, and its message says how to close it. What a day reads is what its asset declares.
"""

from typing import Any

import dagster as dg

from pinnersage_assets.partitions import (
    DAILY,
    EARLIER,
    GRAPH_WINDOW,
    KNOWN_DAY,
    KNOWN_WINDOW,
    SAME_DAY,
    SETTINGS,
    WINDOW,
)
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.checks import PartitionCheck


def inputs_are_complete(spec: dg.AssetSpec) -> PartitionCheck | None:
    """The check for an asset; None where it reads nothing but its own day.

    Of a run of many days each is judged by what it reads itself. Days of its own that the run makes are on their way.
    """
    own = ".".join(spec.key.path)
    # Of the past of another asset that reaches back to the beginning (choices, evaluations) whatever is there is used.
    # All mappings are of time windows, as `partitions.reads` makes them, and an AssetDep's type says less.
    inputs: dict[str, Any] = {
        ".".join(dep.asset_key.path): dep.partition_mapping
        for dep in spec.deps
        if dep.partition_mapping != EARLIER or dep.asset_key == spec.key
    }
    if set(inputs.values()) <= {SAME_DAY}:
        return None
    offsets = " UNION ALL ".join(
        f"SELECT '{table}' AS table_name, $from_{n} AS from_offset, $to_{n} AS to_offset"
        for n, table in enumerate(inputs)
    )

    def parameters(settings: Settings) -> dict[str, Any]:
        days: dict[str, Any] = {"start": DAILY.start.date()}
        # A run may have set another window, or another horizon, than the mappings were made for.
        window = settings.window.days - SETTINGS.window.days
        horizon = settings.evaluation.horizon_days - SETTINGS.evaluation.horizon_days
        earlier = {WINDOW: (window, 0), KNOWN_WINDOW: (window + horizon, 0), KNOWN_DAY: (horizon, horizon)}
        if spec.key.path[0] == "graph":
            # Its window may be as long as the users', and its mapping the same.
            earlier = {GRAPH_WINDOW: (settings.graph_days - SETTINGS.graph_days, 0)}
        for n, mapping in enumerate(inputs.values()):
            start, end = earlier.get(mapping, (0, 0))
            days |= {f"from_{n}": mapping.start_offset - start, f"to_{n}": mapping.end_offset - end}
        return days

    return PartitionCheck(
        "inputs_are_complete",
        "Every day that the partition reads has been materialised and has passed its checks.",
        f"""
        WITH needed AS (
            SELECT *, unnest(
                generate_series(greatest($start, $first + from_offset), $last + to_offset, INTERVAL 1 DAY)
            )::DATE AS day
            FROM ({offsets})
        ),
        missing AS (
            SELECT n.*, p.status FROM needed AS n LEFT JOIN operations.partitions AS p
                ON p.table_name = n.table_name AND p.dt = n.day
            WHERE p.status IS DISTINCT FROM 'passed' AND NOT (n.table_name = '{own}' AND n.day BETWEEN $first AND $last)
        ),
        written AS (SELECT unnest(generate_series($first, $last, INTERVAL 1 DAY))::DATE AS dt)
        SELECT w.dt, m.table_name AS missing, count(*) AS days, min(m.day) AS first, max(m.day) AS last,
            count(*) FILTER (m.status = 'expired') AS expired
        FROM missing AS m JOIN written AS w ON m.day BETWEEN w.dt + m.from_offset AND w.dt + m.to_offset
        GROUP BY w.dt, m.table_name
        """,
        advice="If another run is making these days, let it end: what it has written is checked a moment later. Close "
        "the gap with `make backfill FROM={last} TO={last}`, which makes what has expired again too.",
        reads=tuple(inputs),
        parameters=parameters,
    )
