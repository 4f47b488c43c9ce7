"""``evaluation.next_action``: each action predicted from those before it (paper, section 3, Table 1)."""

import dagster as dg
import polars as pl

from pinnersage_assets.lineage.evaluation.knowledge import knows_the_future
from pinnersage_assets.lineage.queries import INTEREST_ACTIONS, of_users, window
from pinnersage_assets.model.next_action import predict_next_actions, predicted_of_users
from pinnersage_assets.model.population import rows_of
from pinnersage_assets.model.randomness import keyed_sample
from pinnersage_assets.partitions import DAILY, HISTORY, WINDOW, partition_day, reads
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.pin_vectors import pin_vectors

# The window's actions, today's included, on pins with a vector.
_ACTIONS = f"""
    SELECT user_id, pin_id, epoch(ts) / 86400 AS days, ts >= $day::TIMESTAMP AS is_target
    FROM ({INTEREST_ACTIONS}) WHERE pin_id IN (SELECT pin_id FROM staging.pins WHERE dt <= $day)
"""
_ACTIVE = f"SELECT DISTINCT user_id FROM ({_ACTIONS}) WHERE is_target"
_OF_USERS = f"{of_users(_ACTIONS)} ORDER BY user_id, days, pin_id"


@dg.asset(
    key=["evaluation", "next_action"],
    partitions_def=DAILY,
    deps=[*reads(WINDOW, "staging.actions"), *reads(HISTORY, "staging.pins")],
    kinds={"numpy"},
    code_version="1",
)
def next_action(
    context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings
) -> dg.MaterializeResult[pl.DataFrame]:
    """How often one vector, made of what a user did before, is near what the user does next."""
    day = partition_day(context)
    scope = window(day, settings)
    active = warehouse.read(_ACTIVE, {**scope, "first": day})["user_id"].to_numpy()
    if knows_the_future(warehouse, day):
        active = active[:0]
    judged = keyed_sample(active, settings.evaluation.users, "evaluated users", settings.seed, day.toordinal())
    own = warehouse.read(_OF_USERS, {**scope, "users": judged.tolist()})
    ids, vectors = pin_vectors(warehouse, day).known(own["pin_id"].to_numpy())
    found = predict_next_actions(
        own["user_id"].to_numpy(),
        own["days"].to_numpy(),
        rows_of(ids, own["pin_id"].to_numpy()),
        own["is_target"].to_numpy(),
        vectors,
        settings.clustering.decay_per_day,
        (settings.seed, day.toordinal()),
    )
    counts = predicted_of_users(found, settings.evaluation.relevance_cosine)
    columns = {"model": [], "accuracy": [], "accuracy_over_users": [], "actions": [], "users": []}
    for model, predicted in counts.predicted.items() if len(counts.users) else ():
        columns["model"].append(model)
        columns["accuracy"].append(predicted.sum() / counts.targets.sum())
        columns["accuracy_over_users"].append((predicted / counts.targets).mean())
        columns["actions"].append(counts.targets.sum())
        columns["users"].append(len(counts.users))
    return dg.MaterializeResult(
        value=pl.DataFrame(columns),
        metadata={"first actions of users, with nothing before them": int(found.without_past)},
    )
