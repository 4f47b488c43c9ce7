"""Queries that several assets share."""

import datetime

import numpy as np
from numpy.typing import NDArray

from pinnersage_assets.model.selected_vectors import SelectedVectors
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.pin_vectors import pin_vectors


def window(day: datetime.date, settings: Settings) -> dict[str, object]:
    """Query parameters for the actions that describe users as of a day."""
    return {
        "day": day,
        "first": day - datetime.timedelta(days=settings.window.days - 1),
        "interest": settings.window.interest_actions,
    }


# Actions of the window that mean interest. (Joining with a few names takes a third of the time of list_contains.)
INTEREST_ACTIONS = """
    SELECT user_id, pin_id, ts, action FROM staging.actions
    WHERE dt BETWEEN $first AND $day AND action IN (SELECT unnest($interest))
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

# Near-duplicates and the pin that they repeat, as of $day: of those that look the same, one stands for all.
CANONICAL_PINS = "SELECT pin_id, canonical_pin_id FROM corpus.near_duplicates WHERE dt <= $day"

# A number for each category, the same on every day and wherever it is asked for; not negative.
CATEGORY_CODE = "(md5_number_lower(category) >> 1)::BIGINT"

# Days from the end of $day to an action after it.
DAYS_SINCE = "epoch({ts} - ($day + INTERVAL 1 DAY)) / 86400"

# The same of the days after $day up to $today, and when first.
SEEN_SINCE = _ACTED_ON_CORPUS_PINS.format(
    columns=f"a.user_id, c.pin_id, min({DAYS_SINCE.format(ts='a.ts')}) AS days_since",
    days="> $day AND a.dt <= $today GROUP BY a.user_id, c.pin_id",
)


def of_users(query: str) -> str:
    """A query for the rows of some users alone, ``$users``.

    It says so where actions are read as well: DuckDB joins and groups those of everybody first otherwise.
    """
    some = "user_id IN (SELECT unnest($users))"
    return f"SELECT * FROM ({query.replace('staging.actions', f'(FROM staging.actions WHERE {some})')}) WHERE {some}"


def corpus_ids(warehouse: Warehouse, day: datetime.date) -> NDArray[np.int64]:
    """The pins that may be recommended as of a day, (m,) ascending."""
    return warehouse.read("SELECT pin_id FROM corpus.pins WHERE dt = $day ORDER BY pin_id", {"day": day})[
        "pin_id"
    ].to_numpy()


def corpus_vectors(warehouse: Warehouse, day: datetime.date) -> tuple[NDArray[np.int64], SelectedVectors]:
    """As `corpus_ids`, and their vectors (m, n), which are not in memory."""
    ids = corpus_ids(warehouse, day)
    return ids, pin_vectors(warehouse, day).select(ids)
