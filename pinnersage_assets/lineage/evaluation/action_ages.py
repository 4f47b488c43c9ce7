"""``evaluation.action_ages``: how like the latest pin earlier ones are, by their age (paper, section 3, Figure 3)."""

import dagster as dg
import numpy as np
import polars as pl

from pinnersage_assets.lineage.evaluation.knowledge import KNOWN_ACTIONS, KNOWN_USERS
from pinnersage_assets.lineage.queries import of_users, window
from pinnersage_assets.model.merged_vectors import mean_cosine_by_age, past_against_latest
from pinnersage_assets.model.population import rows_of
from pinnersage_assets.model.randomness import keyed_sample
from pinnersage_assets.partitions import DAILY, HISTORY, WINDOW, partition_day, reads
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.pin_vectors import pin_vectors

_WEEK = 7


@dg.asset(
    key=["evaluation", "action_ages"],
    partitions_def=DAILY,
    deps=[*reads(WINDOW, "staging.actions"), *reads(HISTORY, "staging.pins")],
    kinds={"numpy"},
    code_version="1",
)
def action_ages(
    context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings
) -> dg.MaterializeResult[pl.DataFrame]:
    """Cosines of users' past actions with their latest, averaged by age in days."""
    day = partition_day(context)
    scope = window(day, settings)
    everybody = warehouse.read(KNOWN_USERS, scope)["user_id"].to_numpy()
    users = keyed_sample(everybody, settings.evaluation.users, "evaluated users", settings.seed, day.toordinal())
    own = warehouse.read(of_users(KNOWN_ACTIONS), {**scope, "users": users.tolist()})
    ids, vectors = pin_vectors(warehouse, day).known(own["pin_id"].to_numpy())
    past = past_against_latest(
        own["user_id"].to_numpy(), own["age"].to_numpy(), rows_of(ids, own["pin_id"].to_numpy()), vectors
    )
    days = _edges(settings.window.days)
    # What was done at the first moment of the window is as old as the window is long.
    cosines, counts = mean_cosine_by_age(past, np.append(days[:-1], np.nextafter(days[-1], np.inf)))
    rows = pl.DataFrame({"days_from": days[:-1], "days_to": days[1:], "cosine": cosines, "actions": counts})
    return dg.MaterializeResult(
        value=rows.with_columns(pl.col("cosine").fill_nan(None)),
        metadata={"users": len(users), "latest actions, which others are compared with": len(own) - len(past.users)},
    )


def _edges(window_days: int) -> list[int]:
    """A day each in the first week, where most changes, and then a week; the last as long as the window allows."""
    return [*range(min(_WEEK, window_days)), *range(_WEEK, window_days, _WEEK), window_days]
