"""One list of two: PinnerSage's candidates and Pixie's, each by its quota."""

import polars as pl

SOURCES = ("pinnersage", "pixie")
"""Who brings a pin; where both come to one at the same moment, the first."""


def quotas(budget: int, pixie_share: float) -> tuple[int, int]:
    """How many pins PinnerSage and Pixie bring, together the budget: Pixie's share of it, rounded, and the rest.

    Args:
        budget: pins of a user, >= 1.
        pixie_share: in [0, 1].
    """
    pixie = round(budget * pixie_share)
    return budget - pixie, pixie


def blended(pinnersage: pl.DataFrame, pixie: pl.DataFrame, quotas: tuple[int, int]) -> pl.DataFrame:
    """Merge the ranked lists of each user.

    Both go on at a pace in proportion to their quotas until there are as many pins as the quotas together: with c the
    place of a pin in a list, from 0, and q the list's quota, those with the least c / q come first. Of 3 and 1 places
    that is one of each, then two of the first, and so on. A pin of both counts once, where it comes first, and whoever
    comes to it later goes on with the next. What one of them lacks, the other makes up for. So the medoids of a user
    share the budget, too (`candidate_sets`, refilled).

    Args:
        pinnersage: user_id, rank (1, 2, ... of each user), pin_id (of a user each once), score.
        pixie: the same.
        quotas: of each, >= 0; one of 0 brings nothing.

    Returns:
        user_id, rank (from 1), pin_id, source (of `SOURCES`), score (the source's own, so that those of different
        sources cannot be compared); by user and rank.

    Raises:
        ValueError: a quota is negative.
    """
    if min(quotas) < 0:
        raise ValueError(f"quotas must not be negative, unlike {quotas}")
    # Multiplied with both quotas, moments are whole numbers.
    lists = [
        found.with_columns(source=pl.lit(source), moment=(pl.col("rank").cast(pl.Int64) - 1) * other)
        for source, found, own, other in zip(SOURCES, (pinnersage, pixie), quotas, quotas[::-1], strict=True)
        if own
    ]
    if not lists:
        return NO_BLENDS
    return (
        # The names of sources are in their order.
        pl.concat([one.select("user_id", "moment", "source", "pin_id", "score") for one in lists])
        .sort("user_id", "moment", "source")
        .unique(["user_id", "pin_id"], keep="first", maintain_order=True)
        .with_columns(rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("user_id"))
        .filter(pl.col("rank") <= sum(quotas))
        .select(NO_BLENDS.columns)
    )


NO_BLENDS = pl.DataFrame(
    schema={"user_id": pl.Int64, "rank": pl.Int32, "pin_id": pl.Int64, "source": pl.String, "score": pl.Float32}
)
"""The lists of nobody."""
