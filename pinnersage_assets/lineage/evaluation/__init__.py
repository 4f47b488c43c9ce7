"""``evaluation.*``: the models of yesterday judged on the actions of today (paper, section 5.3).

A module a table, or a few that belong together; `knowledge` is what they all start from.
"""

from pinnersage_assets.lineage.evaluation.action_ages import action_ages
from pinnersage_assets.lineage.evaluation.board_holdout import HIT_RATES_ARE_SHARES, board_holdout
from pinnersage_assets.lineage.evaluation.calibration import calibration, calibration_trials
from pinnersage_assets.lineage.evaluation.diversity import diversity
from pinnersage_assets.lineage.evaluation.index_cost import index_cost
from pinnersage_assets.lineage.evaluation.intervals import intervals
from pinnersage_assets.lineage.evaluation.merged_vectors import merged_vectors
from pinnersage_assets.lineage.evaluation.next_action import next_action
from pinnersage_assets.lineage.evaluation.online_agreement import ONLINE_AGREES, online_agreement
from pinnersage_assets.lineage.evaluation.protocol import protocol
from pinnersage_assets.lineage.evaluation.ranking import ranking, ranking_users
from pinnersage_assets.lineage.evaluation.report import report
from pinnersage_assets.lineage.evaluation.retrieval import candidate_sets, retrieval

ASSETS = [
    protocol,
    calibration_trials,
    calibration,
    next_action,
    merged_vectors,
    action_ages,
    candidate_sets,
    retrieval,
    online_agreement,
    ranking_users,
    ranking,
    diversity,
    board_holdout,
    intervals,
    index_cost,
    report,
]

CHECKS = {
    "evaluation.board_holdout": [HIT_RATES_ARE_SHARES],
    "evaluation.online_agreement": [ONLINE_AGREES],
}
