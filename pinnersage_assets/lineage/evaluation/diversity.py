"""``evaluation.diversity``: relevance and diversity by the number of embeddings (paper, section 5.3.3, Figure 7)."""

from collections import defaultdict

import dagster as dg
import numpy as np
import polars as pl

from pinnersage_assets.lineage.evaluation.knowledge import READS, gather_knowledge
from pinnersage_assets.model.diversity import diversity as diversity_of
from pinnersage_assets.model.diversity import mean_of_defined
from pinnersage_assets.model.user_sets import Pairs
from pinnersage_assets.model.variants import Variant
from pinnersage_assets.partitions import DAILY, partition_day
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.database import Warehouse

_MOST_EMBEDDINGS = 10


@dg.asset(
    key=["evaluation", "diversity"],
    partitions_def=DAILY,
    deps=READS,
    kinds={"numpy"},
    code_version="1",
)
def diversity(context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings) -> pl.DataFrame:
    """Candidate sets of 1 to 10 medoids, refilled to one size, and how diverse the actions were that followed."""
    known = gather_knowledge(warehouse, settings, partition_day(context), context.log)
    columns = ["embeddings", "relevance", "recall", "diversity", "action_diversity", "users"]
    if not len(known.users):
        return pl.DataFrame(schema=columns)
    variants = {str(e): Variant(embeddings=e) for e in range(1, _MOST_EMBEDDINGS + 1)}
    rows_of_sets = defaultdict(list)
    sets, counts = known.judge(
        variants,
        [settings.seed],
        context.log,
        keep=lambda name, seed, user, rows: rows_of_sets[name].append(rows),
    )
    means = counts.means(known.task.targets)
    targets = known.task.targets
    has_vector = np.flatnonzero(targets.vectors.any(axis=1))
    actions = diversity_of(Pairs(targets.users[has_vector], has_vector), targets.vectors, len(known.users))
    found = []
    for number, (name, _) in enumerate(sets):
        owners = np.repeat(np.arange(len(known.users)), [len(rows) for rows in rows_of_sets[name]])
        pairs = Pairs.of(owners, np.concatenate(rows_of_sets[name]))
        found.append(
            {
                "embeddings": int(name),
                "relevance": float(means["relevance"][number]),
                "recall": float(means["recall"][number]),
                "diversity": mean_of_defined(diversity_of(pairs, known.task.corpus, len(known.users))),
                "action_diversity": mean_of_defined(actions),
                "users": len(known.users),
            }
        )
    return pl.DataFrame(found, schema_overrides={"diversity": pl.Float64, "action_diversity": pl.Float64})
