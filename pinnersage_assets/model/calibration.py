"""Which setting suits the data: a grid of candidates, and the choice among them by what they would have foreseen.

The paper gives its numbers for Pinterest's data and embeddings (section 5); on other data other numbers are better, and
which ones cannot be known but by trying. What belongs here: the grid, and how one of it is chosen. What does not: the
days on which candidates are tried.

Three families are calibrated alike, so that a comparison between them is fair: PinnerSage, one decay-averaged vector a
user, and the last n pins.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any

import polars as pl

from pinnersage_assets.model.variants import Variant

# Each with the name of the model that is chosen of it.
FAMILIES = {
    "pinnersage": "calibrated",
    "single_vector": "calibrated_single_vector",
    "last_pins": "calibrated_last_pins",
}

# What tells the candidates of a grid apart; null where a family has no such choice.
COLUMNS = ("family", "alpha", "decay_per_day", "embeddings", "shares", "representation")


def variant_of(
    family: str, alpha: float | None, decay_per_day: Any, embeddings: int | None, shares: Any, representation: Any
) -> Variant:
    """The candidate of a family with what was chosen for it; None where the family has no such choice.

    Raises:
        ValueError: there is no such family, or a choice means nothing; names it.
    """
    if family == "pinnersage":
        return Variant("ward", representation, decay_per_day, embeddings=embeddings, shares=shares, alpha=alpha)
    if family == "single_vector":
        return Variant("all", "decayed_centroid", decay_per_day, selection="top", embeddings=1)
    if family == "last_pins":
        return Variant("pins", selection="latest", embeddings=embeddings)
    raise ValueError(f"family must be one of {', '.join(FAMILIES)}, not {family!r}")


def grid(
    alphas: Sequence[float],
    decays_per_day: Sequence[float],
    medoids: Sequence[int],
    shares: Sequence[str],
    representations: Sequence[str],
    last_pins: Sequence[int],
) -> pl.DataFrame:
    """All candidates: every combination for PinnerSage, every λ for the single vector, every n for the last pins.

    Returns:
        A row a candidate, with `COLUMNS`; each once.

    Raises:
        ValueError: a value means nothing; names it.
    """
    combinations = product(alphas, decays_per_day, medoids, shares, representations)
    candidates: list[tuple] = [("pinnersage", *combination) for combination in combinations]
    candidates += [("single_vector", None, decay_per_day, None, None, None) for decay_per_day in decays_per_day]
    candidates += [("last_pins", None, None, pins, None, None) for pins in last_pins]
    for candidate in candidates:
        variant_of(*candidate)
    types = (pl.String, pl.Float64, pl.Float64, pl.Int32, pl.String, pl.String)
    schema = dict(zip(COLUMNS, types, strict=True))
    return pl.DataFrame(candidates, schema=schema, orient="row").unique(maintain_order=True)


def choose(trials: pl.DataFrame) -> pl.DataFrame:
    """Pool what candidates foresaw on several days, and choose one of each family.

    Relevance and recall count alike: recall alone is blind to pins that are as good as the one acted on, and relevance
    alone is flattered by whatever spreads candidates widely. Every user of every day counts as much as any other.

    Args:
        trials: a row a day and candidate, with `COLUMNS`, relevance and recall (means over users) and users.

    Returns:
        A row a candidate: `COLUMNS`, relevance, recall, score (their mean), users (of all days together), days, and
        chosen: of a family the candidate with the best score, of equal ones that with fewer embeddings, then larger
        alpha, smaller λ, equal shares, the paper's medoids. Candidates that were tried on fewer days than others
        of their family, because the grid has changed, are not comparable and left out.
    """
    users = pl.col("users")
    pooled = trials.group_by(COLUMNS, maintain_order=True).agg(
        relevance=(pl.col("relevance") * users).sum() / users.sum(),
        recall=(pl.col("recall") * users).sum() / users.sum(),
        users=users.sum(),
        days=pl.len(),
    )
    compared = pooled.filter(users == users.max().over("family"))
    scored = compared.with_columns(score=(pl.col("relevance") + pl.col("recall")) / 2)
    ordered = scored.sort(
        "family",
        "score",
        "embeddings",
        "alpha",
        "decay_per_day",
        "shares",
        "representation",
        descending=[False, True, False, True, False, False, True],
    )
    return ordered.with_columns(chosen=pl.int_range(pl.len()).over("family") == 0)
