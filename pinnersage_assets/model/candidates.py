"""From drawn medoids and their neighbours to the candidate set of each user (paper, sections 4 and 5.3.1)."""

import polars as pl


def shares(drawn: pl.DataFrame, budget: int) -> pl.DataFrame:
    """How many pins each drawn medoid brings: floor(budget / e), e being the medoids drawn of its user.

    Args:
        drawn: a row a drawn medoid, with user_id.
        budget: candidates of a user, 400 in the paper.

    Returns:
        ``drawn`` with a column share.
    """
    return drawn.with_columns(share=(budget // pl.len().over("user_id")).cast(pl.Int32))


def candidate_sets(drawn: pl.DataFrame, neighbours: pl.DataFrame, seen: pl.DataFrame) -> pl.DataFrame:
    """The candidates of each user: of each drawn medoid the nearest pins that the user has not seen, up to its share.

    A pin that several medoids bring counts once, so that a set can be smaller than the budget (paper, section 5.3.1).

    Args:
        drawn: user_id, medoid_pin_id, share.
        neighbours: medoid_pin_id, pin_ids and cosines (lists, nearest first).
        seen: user_id, pin_id: not to be recommended.

    Returns:
        user_id, rank (from 1), pin_id, medoid_pin_id (the one it is nearest to), score (the cosine to that medoid, by
        which candidates are ranked as in section 5.3.2; equal scores by pin id).
    """
    near = drawn.join(neighbours, on="medoid_pin_id").explode("pin_ids", "cosines", empty_as_null=False)
    unseen = near.rename({"pin_ids": "pin_id", "cosines": "score"}).join(seen, on=["user_id", "pin_id"], how="anti")
    best_first = unseen.sort("user_id", "medoid_pin_id", "score", "pin_id", descending=[False, False, True, False])
    nth = pl.int_range(pl.len()).over("user_id", "medoid_pin_id")
    return (
        best_first.filter(nth < pl.col("share"))
        .sort("user_id", "score", "pin_id", "medoid_pin_id", descending=[False, True, False, False])
        .unique(["user_id", "pin_id"], keep="first", maintain_order=True)
        .with_columns(rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("user_id"))
        .select("user_id", "rank", "pin_id", "medoid_pin_id", "score")
    )
