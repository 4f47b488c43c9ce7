"""Queries that several assets share."""

import datetime

import numpy as np
from numpy.typing import NDArray

from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.database import Warehouse


def window(day: datetime.date, settings: Settings) -> dict[str, object]:
    """Query parameters for the actions that describe users as of a day."""
    return {
        "day": day,
        "first": day - datetime.timedelta(days=settings.window.days - 1),
        "interest": settings.window.interest_actions,
    }


# Actions of the window that mean interest.
INTEREST_ACTIONS = """
    SELECT user_id, pin_id, ts, action FROM staging.actions
    WHERE dt BETWEEN $first AND $day AND list_contains($interest, action)
"""

CORPUS_VECTORS = """
    SELECT c.pin_id, p.embedding FROM corpus.pins AS c JOIN staging.pins AS p ON c.pin_id = p.pin_id
    WHERE c.dt = $day ORDER BY c.pin_id
"""

_ACTED_ON_CORPUS_PINS = """
    WITH grouped AS (
        SELECT p.pin_id, coalesce(d.canonical_pin_id, p.pin_id) AS pin_group
        FROM staging.pins AS p LEFT JOIN corpus.near_duplicates AS d ON p.pin_id = d.pin_id AND d.dt <= $day
        WHERE p.dt <= $day
    )
    SELECT {columns}
    FROM staging.actions AS a
    JOIN grouped AS acted ON a.pin_id = acted.pin_id
    JOIN grouped AS same ON acted.pin_group = same.pin_group
    JOIN corpus.pins AS c ON same.pin_id = c.pin_id AND c.dt = $day
    WHERE a.dt {days}
"""

# Corpus pins that a user acted on inside the window, in whatever way (a hidden pin must not come back), or
# near-duplicates of such pins: never recommended.
SEEN_CORPUS_PINS = _ACTED_ON_CORPUS_PINS.format(columns="DISTINCT a.user_id, c.pin_id", days="BETWEEN $first AND $day")

# Days from the end of $day to an action after it.
DAYS_SINCE = "epoch({ts} - ($day + INTERVAL 1 DAY)) / 86400"

# The same of the days after $day up to $today, and when first.
SEEN_SINCE = _ACTED_ON_CORPUS_PINS.format(
    columns=f"a.user_id, c.pin_id, min({DAYS_SINCE.format(ts='a.ts')}) AS days_since",
    days="> $day AND a.dt <= $today GROUP BY a.user_id, c.pin_id",
)


def pin_vectors(
    warehouse: Warehouse, pins: str, parameters: dict[str, object]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The vectors of the pins, known by ``$day``, that a query selects.

    Args:
        warehouse: where they are.
        pins: a query for one column of pin ids.
        parameters: its parameters, ``day`` among them.

    Returns:
        ids (m,) ascending, and vectors (m, n).
    """
    return warehouse.read_vectors(
        f"SELECT pin_id, embedding FROM staging.pins WHERE dt <= $day AND pin_id IN ({pins}) ORDER BY pin_id",
        parameters,
    )
