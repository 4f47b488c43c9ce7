"""The day in order: what is known of users at moments of the days that judge them, and what is asked then.

The other models know users as of the day before; the online model is there for what they did since. So it is asked
anew at each moment at which a user acts on a pin that is a target, and judged by that target alone. At that moment it
knows what the user did up to then, and nothing of the pin.
"""

import datetime
import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pinnersage_assets.lineage.evaluation.knowledge import Knowledge, seeds_of
from pinnersage_assets.lineage.queries import DAYS_SINCE, SEEN_SINCE
from pinnersage_assets.model.moments import Moments, reclustered, sampled_at_moments, updated_online
from pinnersage_assets.model.population import offsets_of, ranges, rows_of
from pinnersage_assets.model.retrieval_task import RetrievalTask, SetCounts, Targets, judge_embeddings
from pinnersage_assets.model.user_sets import Pairs
from pinnersage_assets.model.variants import ONLINE, RECLUSTERED, Clusters, Variant
from pinnersage_assets.progress import log_progress
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.database import Warehouse

# Both models are the row `pinnersage` but for what they know.
VARIANT = Variant()

# What users did since the known day, of pins known by then: the service has no vectors of others.
_ACTIONS_SINCE = f"""
    SELECT user_id, pin_id, {DAYS_SINCE.format(ts="ts")} AS days_since FROM staging.actions
    WHERE dt > $day AND dt <= $today AND list_contains($interest, action)
        AND pin_id IN (SELECT pin_id FROM staging.pins WHERE dt <= $day)
"""


@dataclass(frozen=True)
class MomentsOfUsers:
    """The M moments of the users that are judged, and what is asked at each: a task of M users."""

    users: NDArray[np.int64]
    """(M,) the number of each moment's user, ascending; every user has one at least."""
    moments: Moments
    task: RetrievalTask

    def clusters(self, known: Knowledge, settings: Settings) -> dict[str, Clusters]:
        """The clusters of each moment, by model.

        What the online model starts from is what `pinnersage` knows, made by the same α and λ, rather than the stored
        rows of users.medoids, whose parameters may be others: so the two differ by the update alone.
        """
        recent = settings.serving.recent_actions
        return {
            ONLINE: updated_online(known.population, self.moments, VARIANT, recent),
            RECLUSTERED: reclustered(known.population, self.moments, VARIANT),
        }


def gather_moments(warehouse: Warehouse, settings: Settings, known: Knowledge) -> MomentsOfUsers:
    """The moments at which users first acted on targets: all of a user's that come at the same time are one."""
    today = known.day + datetime.timedelta(days=settings.evaluation.horizon_days)
    scope = {"day": known.day, "today": today}
    targets = known.task.targets
    times, of_target = np.unique(
        np.column_stack([targets.users, known.target_pins["days_since"].to_numpy()]), axis=0, return_inverse=True
    )
    users, days_since = times[:, 0].astype(np.int64), times[:, 1]
    numbered = pl.DataFrame({"moment": np.arange(len(users)), "user_id": known.users[users], "now": days_since})

    def before(query: str, parameters: dict[str, object]) -> pl.DataFrame:
        """The rows of users that were there before each of their moments, the latest first."""
        found = warehouse.read(query, {**scope, **parameters}).join(numbered, on="user_id")
        found = found.filter(pl.col("days_since") < pl.col("now"))
        return found.sort("moment", "days_since", "pin_id", descending=[False, True, False])

    actions = before(_ACTIONS_SINCE, {"interest": settings.window.interest_actions})
    moments = Moments(
        known.users[users],
        days_since,
        actions["moment"].to_numpy(),
        rows_of(known.population.pin_ids, actions["pin_id"].to_numpy()),
        (actions["now"] - actions["days_since"]).to_numpy(),
    )
    seen = Pairs.of(*np.empty((2, 0), int))
    if not settings.evaluation.keep_seen:
        first, last = (np.searchsorted(known.task.seen.users, users, side) for side in ("left", "right"))
        rows = known.task.seen.rows[ranges(first, last - first)]
        since = before(SEEN_SINCE, {})
        seen = Pairs.of(
            np.append(np.repeat(np.arange(len(users)), last - first), since["moment"].to_numpy()),
            np.append(rows, rows_of(known.corpus_ids, since["pin_id"].to_numpy())),
        )
    order = np.argsort(of_target, kind="stable")
    task = RetrievalTask(
        len(users),
        known.task.corpus,
        seen,
        Targets(of_target[order], targets.corpus_rows[order], targets.vectors[order]),
        known.task.budget,
        known.task.relevance_cosine,
    )
    return MomentsOfUsers(users, moments, task)


def judge_moments(
    known: Knowledge,
    at: MomentsOfUsers,
    settings: Settings,
    log: logging.Logger,
    keep: Callable[[str, int, int, NDArray[np.int64]], object],
) -> tuple[list[tuple[str, int]], SetCounts]:
    """Judge the online model, and the one that clusters anew, at all moments.

    Args:
        known: the users.
        at: their moments.
        settings: how many seeds, and how many actions the online model takes.
        log: of the progress.
        keep: as of `judge_variants`, once for each moment of a user, in order.

    Returns:
        The sets, and of each user what was relevant and recalled at all of its moments, and the mean size of the sets.
    """
    clusters = at.clusters(known, settings)
    sets = [(model, seed) for model in clusters for seed in seeds_of(VARIANT, settings)]
    selected = (
        sampled_at_moments(
            clusters[model], known.population, at.moments, VARIANT.embeddings, (seed, known.day.toordinal())
        )
        for model, seed in sets
    )
    counts = judge_embeddings(
        sets,
        [VARIANT] * len(sets),
        selected,
        np.arange(len(at.users)),
        known.population.vectors,
        at.task,
        known.search,
        log_progress(log, "moments"),
        lambda model, seed, moment, rows: keep(model, seed, int(at.users[moment]), rows),
    )
    return sets, counts.together(offsets_of(at.users))
