"""``graph.*``: pins and the boards that they are saved to (Eksombatchai et al., "Pixie", 2018, section 3).

Where data has no boards, a user's session stands for one: both are pins that somebody put together.
"""

import datetime
from typing import Any

import dagster as dg
import polars as pl

from pinnersage_assets.lineage.graph_snapshot import CODE_VERSION, make_snapshots
from pinnersage_assets.lineage.queries import INTEREST_ACTIONS
from pinnersage_assets.partitions import DAILY, GRAPH_WINDOW, HISTORY, SAME_DAY, SETTINGS, partition_day, reads
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.buckets import write_parquet
from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.partitions import ParquetFiles

_GIVEN = "SELECT board_id, user_id, pin_id, ts FROM staging.board_pins WHERE dt BETWEEN $first AND $day"

# A session is of one day, so that it has the same start, and so the same id, wherever the window begins. MD5, because
# what DuckDB's own hash gives may change with its version.
_SESSIONS = f"""
    WITH paused AS (
        SELECT user_id, pin_id, ts,
            ts - lag(ts) OVER (PARTITION BY user_id, ts::DATE ORDER BY ts) <= to_minutes($minutes) AS goes_on
        FROM ({INTEREST_ACTIONS})
    ),
    in_sessions AS (
        -- Those of a moment are peers: they are in one session, whatever their order.
        SELECT user_id, pin_id, ts,
            max(CASE WHEN goes_on THEN NULL ELSE ts END) OVER (PARTITION BY user_id, ts::DATE ORDER BY ts) AS start
        FROM paused
    )
    SELECT (md5_number_lower(concat_ws(' ', user_id, epoch_us(start))) >> 1)::BIGINT AS board_id, user_id, pin_id, ts
    FROM in_sessions
"""

_SAVED = {"given": _GIVEN, "sessions": _SESSIONS}
_TABLES = {"given": "staging.board_pins", "sessions": "staging.actions"}

_KNOWN = "pin_id IN (SELECT pin_id FROM staging.pins WHERE dt <= $day)"

_EDGES = """
    SELECT pin_id, board_id, min(user_id) AS user_id, min(ts) AS first_ts, max(ts) AS last_ts
    FROM saved WHERE known GROUP BY pin_id, board_id ORDER BY pin_id, board_id
"""


@dg.asset(
    key=["graph", "edges"],
    partitions_def=DAILY,
    deps=[*reads(GRAPH_WINDOW, _TABLES[SETTINGS.graph.boards]), *reads(HISTORY, "staging.pins")],
    kinds={"python"},
    code_version="1",
)
def edges(
    context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings
) -> dg.MaterializeResult[ParquetFiles]:
    """The distinct pins of each board, as of the day."""
    saved, scope = _SAVED[settings.graph.boards], _scope(partition_day(context), settings)
    with ParquetFiles.new(warehouse) as rows, warehouse.get_reader() as connection:
        connection.execute(f"CREATE TEMP TABLE saved AS SELECT *, {_KNOWN} AS known FROM ({saved})", scope)
        [(unknown,)] = connection.execute("SELECT count(*) FROM saved WHERE NOT known").fetchall()
        write_parquet(connection, _EDGES, rows.folder / "rows.parquet")
    return dg.MaterializeResult(value=rows, metadata={"saves of unknown pins": unknown})


def _scope(day: datetime.date, settings: Settings) -> dict[str, Any]:
    scope = {"day": day, "first": day - datetime.timedelta(days=settings.graph_days - 1)}
    if settings.graph.boards == "sessions":
        scope |= {"interest": settings.window.interest_actions, "minutes": settings.graph.session_minutes}
    return scope


@dg.asset(
    key=["graph", "snapshot"],
    partitions_def=DAILY,
    deps=[*reads(SAME_DAY, "graph.edges"), *reads(HISTORY, "staging.pins", "corpus.near_duplicates")],
    kinds={"numpy", "file"},
    code_version=CODE_VERSION,
)
def snapshot(context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings) -> pl.DataFrame:
    """The day's graph as a file that is mapped into memory, and another one of what pruning leaves."""
    rows = make_snapshots(warehouse, settings, partition_day(context), context.log)
    return pl.DataFrame(list(rows), schema_overrides={"largest_entropy": pl.Float64})


ASSETS = [edges, snapshot]
