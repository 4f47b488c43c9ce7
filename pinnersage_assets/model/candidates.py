"""From drawn medoids and their neighbours to the candidate set of each user (paper, sections 4 and 5.3.1)."""

import numpy as np
import polars as pl
from numpy.typing import NDArray


def shares(drawn: pl.DataFrame, budget: int, by_importance: bool = False, refill: bool = False) -> pl.DataFrame:
    """How many pins each drawn medoid brings.

    Args:
        drawn: a row a drawn medoid, with user_id and importance.
        budget: candidates of a user, 400 in the paper.
        by_importance: in proportion to importance; where all importance is 0 (underflow of old actions), as if it were
            equal. Otherwise in equal parts.
        refill: whether sets will be refilled, as of `candidate_sets`.

    Returns:
        ``drawn`` with a column share, without the medoids whose share is 0. The shares of a user add up to the budget,
        the largest remainders rounded up, equal ones in the order of the rows; but equal parts that are not refilled
        are floor(budget / e), e being the medoids drawn of the user, as in section 5.3.1.
    """
    users, importances = drawn["user_id"].to_numpy(), drawn["importance"].to_numpy()
    share = share_out(users, importances, budget, by_importance, refill)
    return drawn.with_columns(share=pl.Series(share, dtype=pl.Int32)).filter(pl.col("share") > 0)


def share_out(
    user_ids: NDArray[np.int64],
    importances: NDArray[np.float64],
    budget: int,
    by_importance: bool = False,
    refill: bool = False,
) -> NDArray[np.int64]:
    """The column that `shares` adds, zeros included.

    Args:
        user_ids: (K,) the user of each drawn medoid.
        importances: (K,) its importance.
        budget: as `shares`.
        by_importance: as `shares`.
        refill: as `shares`.

    Returns:
        (K,) pins that each brings.
    """
    _, users, counts = np.unique(user_ids, return_inverse=True, return_counts=True)
    if not by_importance and not refill:
        return (budget // counts)[users]
    exact = (budget / counts)[users]
    if by_importance:
        total = np.bincount(users, weights=importances)[users]
        with np.errstate(invalid="ignore"):
            exact = np.where(total > 0, budget * importances / total, exact)
    floors = np.floor(exact).astype(np.int64)
    rest = budget - np.bincount(users, weights=floors).astype(np.int64)
    order = np.lexsort((floors - exact, users))
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order)) - (np.cumsum(counts) - counts)[users[order]]
    return floors + (places < rest[users])


def candidate_sets(
    drawn: pl.DataFrame, neighbours: pl.DataFrame, seen: pl.DataFrame, refill: bool = False
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The candidates of each user: of each drawn medoid the nearest pins that the user has not seen, up to its share.

    A pin that several medoids bring counts once. In the paper a set is smaller for that (section 5.3.1). With
    ``refill`` the medoids go on until the set is full, at a pace in proportion to their shares: with c the place of a
    pin among the unseen neighbours of a medoid, from 0, and s the medoid's share, candidates are the pins with the
    least c / s, each at the least of its medoids (equal ones by pin id). Those with c / s < 1 are the paper's set. A
    medoid brings the pins that it has at c / s < 1, or not beyond the last that the set needs.

    Args:
        drawn: user_id, medoid_pin_id, share.
        neighbours: medoid_pin_id, pin_ids and cosines (lists, nearest first), whole (whether there are no more).
        seen: user_id, pin_id: not to be recommended.
        refill: replace what overlaps.

    Returns:
        The candidates of the users whose medoids have neighbours enough: user_id, rank (from 1), pin_id, medoid_pin_id
        (of those that bring it, the one it is nearest to), score (the cosine to that medoid, by which candidates are
        ranked as in section 5.3.2; equal scores by pin id).
        Of the other users: user_id, and medoid_pin_id of the medoids that want more neighbours.
    """
    of_medoid = ["user_id", "medoid_pin_id"]
    near = drawn.join(neighbours, on="medoid_pin_id", how="left").with_columns(pl.col("whole").fill_null(False))
    unseen = (
        near.explode("pin_ids", "cosines", empty_as_null=False)
        .rename({"pin_ids": "pin_id", "cosines": "score"})
        .drop_nulls("pin_id")
        .join(seen, on=["user_id", "pin_id"], how="anti")
        .sort(*of_medoid, "score", "pin_id", descending=[False, False, True, False])
        .with_columns(depth=pl.int_range(pl.len()).over(of_medoid) / pl.col("share"))
    )
    # Of each medoid, the depth down to which its neighbours are known; of a user, the depth for which all of them are.
    counts = unseen.group_by(of_medoid).agg(unseen=pl.len())
    reach = pl.when("whole").then(float("inf")).otherwise(pl.col("unseen").fill_null(0) / pl.col("share"))
    medoids = (
        near.select(*of_medoid, "share", "whole")
        .join(counts, on=of_medoid, how="left")
        .with_columns(reach=reach, budget=pl.col("share").sum().over("user_id"))
        .with_columns(horizon=pl.col("reach").min().over("user_id"))
    )
    users = medoids.group_by("user_id").agg(pl.first("budget", "horizon"))
    if refill:
        depths = unseen.group_by("user_id", "pin_id").agg(pl.col("depth").min()).join(users, on="user_id")
        known = depths.filter(pl.col("depth") < pl.col("horizon"))
        sizes = known.group_by("user_id").agg(known=pl.len())
        users = users.join(sizes, on="user_id", how="left").with_columns(pl.col("known").fill_null(0))
        full = (pl.col("known") >= pl.col("budget")) | pl.col("horizon").is_infinite()
        # The deepest pin that still belongs to the set; at equal depths the smaller pin id does.
        best = known.sort("user_id", "depth", "pin_id").filter(
            pl.int_range(pl.len()).over("user_id") < pl.col("budget")
        )
        # Where a medoid has a pin deeper than that, its list may or may not reach so far.
        last = best.group_by("user_id").agg(last=pl.col("depth").max())
        brought = (
            unseen.join(best.select("user_id", "pin_id"), on=["user_id", "pin_id"], how="semi")
            .join(last, on="user_id")
            .filter((pl.col("depth") < 1) | (pl.col("depth") <= pl.col("last")))
        )
    else:
        full = pl.col("horizon") >= 1
        brought = unseen.filter(pl.col("depth") < 1)
    wanting = users.filter(~full).select("user_id")
    sets = (
        brought.join(wanting, on="user_id", how="anti")
        .sort("user_id", "score", "pin_id", "medoid_pin_id", descending=[False, True, False, False])
        .unique(["user_id", "pin_id"], keep="first", maintain_order=True)
        .with_columns(rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("user_id"))
        .select("user_id", "rank", "pin_id", "medoid_pin_id", "score")
    )
    shallow = pl.col("reach").is_finite() if refill else pl.col("reach") < 1
    return sets, medoids.join(wanting, on="user_id", how="semi").filter(shallow).select(of_medoid)
