"""``evaluation.*``: the models of yesterday judged on the actions of today (paper, section 5.3).

A module a table, or a few that belong together; `knowledge` is what they all start from.
"""

from pinnersage_assets.lineage.evaluation.index_cost import index_cost
from pinnersage_assets.lineage.evaluation.retrieval import retrieval, retrieval_users

ASSETS = [retrieval_users, retrieval, index_cost]
