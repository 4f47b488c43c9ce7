"""``evaluation.report``: the page of a day, and the file that it is.

What belongs here: what the page is made of, and where it is put. What it says is the business of `reports`.
"""

import datetime
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import polars as pl

from pinnersage_assets.files import written_atomically
from pinnersage_assets.model.population import rows_of
from pinnersage_assets.partitions import DAILY, HISTORY, SAME_DAY, partition_day, reads
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.pin_vectors import pin_vectors

if TYPE_CHECKING:
    # Where they are used, not here: every start of Dagster would wait for matplotlib.
    from pinnersage_assets.reports.page import PageData
    from pinnersage_assets.reports.users import UserData

# Each part of the page by the table that it shows, as it is.
_PARTS = {
    "intervals": "evaluation.intervals",
    "retrieval": "marts.retrieval_lifts",
    "ranking": "marts.ranking_lifts",
    "next_action": "marts.next_action_lifts",
    "index_cost": "evaluation.index_cost",
    "diversity": "evaluation.diversity",
    "clusters_per_user": "marts.clusters_per_user",
    "protocol": "evaluation.protocol",
    "variety": "evaluation.variety",
    "online_agreement": "evaluation.online_agreement",
    "merged_vectors": "evaluation.merged_vectors",
    "action_ages": "evaluation.action_ages",
    "calibration": "evaluation.calibration",
    "board_holdout": "evaluation.board_holdout",
}

_USERS = """
    SELECT user_id, count(DISTINCT cluster) AS clusters, sum(size)::BIGINT AS actions
    FROM users.medoids WHERE dt = $day GROUP BY user_id ORDER BY user_id
"""
_MEDOIDS = """
    SELECT user_id, cluster, medoid_pin_id, importance FROM users.medoids
    WHERE dt = $day AND list_contains($users, user_id) ORDER BY ALL
"""
_PINS = """
    SELECT c.user_id, c.cluster, c.pin_id, c.actions, c.last_ts, p.title, p.category, p.image_url
    FROM users.clusters AS c JOIN staging.pins AS p ON c.pin_id = p.pin_id AND p.dt <= $day
    WHERE c.dt = $day AND list_contains($users, c.user_id) ORDER BY c.user_id, c.cluster, c.pin_id
"""
_RECOMMENDATIONS = """
    SELECT r.user_id, r.medoid_pin_id, r.rank, r.pin_id, r.score, p.title, p.category, p.image_url
    FROM retrieval.recommendations AS r JOIN staging.pins AS p ON r.pin_id = p.pin_id AND p.dt <= $day
    WHERE r.dt = $day AND list_contains($users, r.user_id) ORDER BY r.user_id, r.rank
"""
_OUTCOMES = """
    SELECT user_id, targets, recalled, relevant, set_size FROM evaluation.retrieval_users
    WHERE dt = $day AND model = 'recommended' AND list_contains($users, user_id) ORDER BY user_id
"""

# Of these the page gives the rows. All come before the page, so that a second run counts what the first one counted.
_COUNTED = (
    *("staging.actions", "staging.impressions", "staging.board_pins", "staging.pins", "staging.rejected"),
    *("corpus.near_duplicates", "corpus.excluded", "corpus.pins", "users.clusters", "users.medoids", "graph.edges"),
    *("retrieval.medoid_neighbours", "retrieval.recommendations"),
    *("retrieval.pixie_recommendations", "retrieval.blended_recommendations"),
)
_VOLUMES = """
    SELECT table_name, dt, rows FROM operations.partitions
    WHERE dt BETWEEN $day - 7 AND $day AND list_contains($tables, table_name) ORDER BY ALL
"""

_SAME_DAY = {*_PARTS.values(), *_COUNTED, "evaluation.retrieval_users"} - {"staging.pins"}


@dg.asset(
    key=["evaluation", "report"],
    partitions_def=DAILY,
    deps=[*reads(SAME_DAY, *sorted(_SAME_DAY)), *reads(HISTORY, "staging.pins")],
    kinds={"matplotlib", "file"},
    code_version="1",
)
def report(
    context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings
) -> dg.MaterializeResult[pl.DataFrame]:
    """One page on how the day's models did, as a file, and what the file is."""
    from pinnersage_assets.reports.page import render

    day = partition_day(context)
    # Attached once for all that the page shows.
    with warehouse.get_reader():
        data = _page_data(warehouse, settings, day)
    content = render(data).encode()
    path = Path(f"reports/dt={day}/index.html")
    with written_atomically(warehouse.data_folder / path) as hidden:
        hidden.write_bytes(content)
    row = {"path": str(path), "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return dg.MaterializeResult(
        value=pl.DataFrame([row]),
        metadata={
            # The UI cannot open a file; `make dev` serves the folder.
            "page": dg.MetadataValue.url(f"{settings.report.address.rstrip('/')}/dt={day}/index.html"),
            "path": dg.MetadataValue.path(warehouse.data_folder / path),
        },
    )


def _page_data(warehouse: Warehouse, settings: Settings, day: datetime.date) -> "PageData":
    from pinnersage_assets.reports.page import PageData

    parts = {
        part: warehouse.read(f"FROM {table} WHERE dt = $day ORDER BY ALL", {"day": day})
        for part, table in _PARTS.items()
    }
    return PageData(
        day,
        **parts,
        volumes=warehouse.read(_VOLUMES, {"day": day, "tables": list(_COUNTED)}),
        users=_user_data(warehouse, settings, day),
        own_pinnersage=frozenset(
            name for name, model in settings.models.items() if model.clustering not in ("pins", "all")
        ),
        keep_seen=settings.evaluation.keep_seen,
    )


def _user_data(warehouse: Warehouse, settings: Settings, day: datetime.date) -> "UserData | None":
    """Some users from light to heavy; None where nobody has clusters."""
    from pinnersage_assets.reports.users import UserData, spread

    everybody = warehouse.read(_USERS, {"day": day})
    if everybody.is_empty():
        return None
    users = spread(everybody, settings.report.users, settings.seed, day.toordinal())
    scope = {"day": day, "users": users["user_id"].to_list()}
    pins = warehouse.read(_PINS, scope)
    ids, vectors = pin_vectors(warehouse, day).known(pins["pin_id"].to_numpy())
    return UserData(
        users,
        pins,
        vectors[rows_of(ids, pins["pin_id"].to_numpy())],
        warehouse.read(_MEDOIDS, scope),
        warehouse.read(_RECOMMENDATIONS, scope),
        warehouse.read(_OUTCOMES, scope),
    )
