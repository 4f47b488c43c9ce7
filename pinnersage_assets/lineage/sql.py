"""``staging.*`` and ``marts.*``: the SQL models of ``dbt_like_sql`` as assets."""

import dagster as dg

from pinnersage_assets.partitions import DAILY, EARLIER, HISTORY, SAME_DAY, WINDOW, partition_days
from pinnersage_assets.warehouse.checks import PartitionCheck
from pinnersage_assets.warehouse.sql_assets import sql_asset
from pinnersage_assets.warehouse.sql_models import load_sql_models

_MAPPINGS = {"same_day": SAME_DAY, "window": WINDOW, "history": HISTORY, "earlier": EARLIER}

# Staging takes many days in one run; all that comes after it takes one.
_BACKFILL_POLICIES = {"staging": dg.BackfillPolicy.single_run(), "marts": None}

ASSETS = [
    sql_asset(model, DAILY, _MAPPINGS, _BACKFILL_POLICIES[model.table.schema], partition_days)
    for model in load_sql_models().values()
]

NOTHING_IS_LOST = PartitionCheck(
    "nothing_is_lost",
    "Every raw row is either in staging or in staging.rejected, as long as raw rows are there.",
    """
    WITH counted AS (
        SELECT dt, 'actions' AS source, 1 AS came, 0 AS kept FROM raw.actions
        UNION ALL SELECT dt, 'impressions', 1, 0 FROM raw.impressions
        UNION ALL SELECT dt, 'board_pins', 1, 0 FROM raw.board_pins
        UNION ALL SELECT dt, 'pins', 1, 0 FROM raw.pins
        UNION ALL SELECT dt, 'actions', 0, 1 FROM staging.actions
        UNION ALL SELECT dt, 'impressions', 0, 1 FROM staging.impressions
        UNION ALL SELECT dt, 'board_pins', 0, 1 FROM staging.board_pins
        UNION ALL SELECT dt, 'pins', 0, 1 FROM staging.pins
        UNION ALL SELECT dt, source, 0, 1 FROM staging.rejected
    )
    SELECT dt, source, sum(came) AS came, sum(kept) AS kept FROM counted
    WHERE dt BETWEEN $first AND $last AND NOT EXISTS (
        FROM operations.partitions AS p
        WHERE p.table_name = 'raw.' || source AND p.dt = counted.dt AND p.status = 'expired'
    )
    GROUP BY dt, source HAVING sum(came) <> sum(kept)
    """,
    reads=("staging.actions", "staging.impressions", "staging.board_pins", "staging.pins"),
)

CHECKS = {"staging.rejected": [NOTHING_IS_LOST]}
