"""What an operator is warned of: a day that passes all its tests, and is unlike those before it.

None of these checks blocks: a holiday is no fault. Thresholds are settings of section ``checks``, and each says what to
look at. What must hold is checked where it is made.
"""

from collections.abc import Mapping
from typing import Any

from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.checks import PartitionCheck

# With fewer earlier days nothing is usual.
_LEAST_DAYS = 3

# Days whose figure is not within a ratio of the mean of the days before it. ``figures`` is a query (dt, figure).
_UNUSUAL = """
    WITH figures AS ({figures}),
    compared AS (
        SELECT d.dt, d.figure, avg(w.figure) AS usual, count(*) AS earlier_days
        FROM figures AS d JOIN figures AS w ON w.dt BETWEEN d.dt - $trailing::INTEGER AND d.dt - 1
        WHERE d.dt BETWEEN $first AND $last GROUP BY d.dt, d.figure
    )
    FROM compared WHERE earlier_days >= {least} AND NOT (figure BETWEEN usual / $ratio AND usual * $ratio)
"""


def _unusual(name: str, what: str, figures: str, ratio: str, advice: str) -> PartitionCheck:
    def parameters(settings: Settings) -> Mapping[str, Any]:
        return {"trailing": settings.checks.trailing_days, "ratio": getattr(settings.checks, ratio)}

    return PartitionCheck(
        name,
        f"{what} are within a factor of `checks.{ratio}` of the mean of the `checks.trailing_days` days before "
        f"(with fewer than {_LEAST_DAYS} of them nothing is said).",
        _UNUSUAL.format(figures=figures, least=_LEAST_DAYS),
        blocking=False,
        advice=advice,
        parameters=parameters,
    )


def _volume(table: str) -> PartitionCheck:
    return _unusual(
        "volume_is_usual",
        "The rows of the day",
        f"SELECT dt, rows AS figure FROM operations.partitions WHERE table_name = '{table}'",
        "volume_ratio",
        "See whether all files of {day} have landed, and in staging.rejected whether rows were refused. If some are "
        "late, let them land and call `make backfill STALE=1`; if the day was like that, nothing is to be done.",
    )


CLUSTERS_ARE_USUAL = _unusual(
    "clusters_per_user_are_usual",
    "Clusters per user",
    "SELECT dt, count(*) / count(DISTINCT user_id) AS figure FROM users.medoids "
    "WHERE dt BETWEEN $first - $trailing::INTEGER AND $last GROUP BY dt",
    "clusters_ratio",
    "Users are described otherwise than they were. If `clustering.alpha` or embeddings have changed, that is why; if "
    "not, see in staging.actions of {day} whether few users acted on very many pins.",
)

REUSE_IS_USUAL = _unusual(
    "medoid_reuse_is_usual",
    "Users per medoid",
    "SELECT dt, sum(users) / count(*) AS figure FROM marts.medoid_reuse "
    "WHERE dt BETWEEN $first - $trailing::INTEGER AND $last GROUP BY dt",
    "reuse_ratio",
    "With less reuse the day's queries take longer; with more, many users are shown the same. See whether users or "
    "pins of {day} are others than before (volume_is_usual of staging.actions and staging.pins).",
)

COSINE_IS_STEADY = PartitionCheck(
    "cosine_is_steady",
    "The mean score of recommendations, a cosine, is within `checks.cosine_drift` of that of the day before.",
    """
    WITH means AS (
        SELECT dt, avg(score) AS mean_score FROM retrieval.recommendations
        WHERE dt BETWEEN $first - 1 AND $last GROUP BY dt
    )
    SELECT d.dt, d.mean_score, y.mean_score AS day_before
    FROM means AS d JOIN means AS y ON y.dt = d.dt - 1
    WHERE d.dt BETWEEN $first AND $last AND abs(d.mean_score - y.mean_score) > $drift
    """,
    blocking=False,
    advice="What is recommended has moved away from what users did, or nearer. See in corpus.excluded whether many "
    "pins left on {day}, in retrieval.hnsw_index whether recall fell, and whether new pins have embeddings of another "
    "model.",
    parameters=lambda settings: {"drift": settings.checks.cosine_drift},
)

# Models that know next to nothing of a user, or no clusters.
_BASELINES = ("last_pin", "decay_average", "popular", "random")

BETTER_THAN_BASELINES = PartitionCheck(
    "better_than_baselines",
    f"Among `checks.judged_users` users or more, pinnersage recalls at least as much as {', '.join(_BASELINES)}.",
    f"""
    SELECT p.dt, b.model AS baseline, b.recall AS recall_of_baseline, p.recall AS recall_of_pinnersage, p.users
    FROM evaluation.retrieval AS p JOIN evaluation.retrieval AS b ON p.dt = b.dt AND b.model IN {_BASELINES}
    WHERE p.dt BETWEEN $first AND $last AND p.model = 'pinnersage' AND p.users >= $users AND b.recall > p.recall
    """,
    blocking=False,
    advice="See on the page of {day} (evaluation.report) whether the intervals overlap: a day may be chance. If it "
    "goes on, let `evaluation.calibration` choose the settings, or see whether embeddings tell users' interests "
    "apart.",
    parameters=lambda settings: {"users": settings.checks.judged_users},
)

CHECKS: dict[str, list[PartitionCheck]] = {
    "staging.actions": [_volume("staging.actions")],
    "staging.impressions": [_volume("staging.impressions")],
    "staging.board_pins": [_volume("staging.board_pins")],
    "users.medoids": [CLUSTERS_ARE_USUAL],
    "marts.medoid_reuse": [REUSE_IS_USUAL],
    "retrieval.recommendations": [COSINE_IS_STEADY],
    "evaluation.retrieval": [BETTER_THAN_BASELINES],
}
