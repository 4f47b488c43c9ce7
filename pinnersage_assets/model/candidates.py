"""From drawn medoids and their neighbours to the candidate set of each user (paper, sections 4 and 5.3.1)."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pinnersage_assets.model.population import LARGEST_CODE


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
        neighbours: medoid_pin_id, pin_ids and cosines (lists, nearest first, equally near ones by pin id), whole
            (whether there are no more).
        seen: user_id, pin_id: not to be recommended.
        refill: replace what overlaps.

    Returns:
        The candidates of the users whose medoids have neighbours enough: user_id, rank (from 1), pin_id, medoid_pin_id
        (of those that bring it, the one it is nearest to), score (the cosine to that medoid, by which candidates are
        ranked as in section 5.3.2; equal scores by pin id).
        Of the other users: user_id, and medoid_pin_id of the medoids that want more neighbours.
    """
    lists = drawn.join(neighbours, on="medoid_pin_id", how="left").sort("user_id", "medoid_pin_id")
    if lists.is_empty():
        return NO_CANDIDATES, lists.select("user_id", "medoid_pin_id")
    user_ids, begins, users = np.unique(lists["user_id"].to_numpy(), return_index=True, return_inverse=True)
    share = lists["share"].to_numpy().astype(np.int64)
    of_list, pins, scores, pin_ids = _unseen(lists, users, user_ids, seen)
    lengths = np.bincount(of_list, minlength=len(lists))
    # The depth of a neighbour, its place over the share, as a whole number: fractions of denominators up to the largest
    # share are equal, or differ by one unit at least.
    unit = int(share.max()) ** 2
    end = unit * (int(lengths.max()) + 1)
    if len(user_ids) * (len(pin_ids) + 1) * end > LARGEST_CODE:
        return _by_halves(drawn, neighbours, seen, refill, user_ids)
    depths = (np.arange(len(of_list)) - (np.cumsum(lengths) - lengths)[of_list]) * unit // share[of_list]
    # Of each list, the depth down to which its neighbours are known; of a user, the depth for which all of them are.
    reach = np.where(lists["whole"].fill_null(False).to_numpy(), end, lengths * unit // share)
    horizon = np.minimum.reduceat(reach, begins)
    within = np.flatnonzero(depths < (horizon[users[of_list]] if refill else unit))
    of_list, pins, scores, depths = of_list[within], pins[within], scores[within], depths[within]
    # Every pin of a user, and its neighbours that are this pin together, the least deep first.
    pairs = users[of_list] * len(pin_ids) + pins
    order = np.argsort(pairs * end + depths)
    pairs, depths = pairs[order], depths[order]
    is_first = np.diff(pairs, prepend=-1) != 0
    of_pair, owners = np.cumsum(is_first) - 1, pairs[is_first] // max(1, len(pin_ids))
    if refill:
        budget, known = np.add.reduceat(share, begins), np.bincount(owners, minlength=len(user_ids))
        is_full = (known >= budget) | (horizon == end)
        # At equal depths the smaller pin belongs to the set: pairs are in the order of pins.
        nearest = np.argsort(owners * end + depths[is_first], kind="stable")
        is_in_set = np.empty(len(nearest), dtype=bool)
        is_in_set[nearest] = np.arange(len(nearest)) - (np.cumsum(known) - known)[owners] < budget[owners]
        last = np.full(len(user_ids), -1)
        np.maximum.at(last, owners[is_in_set], depths[is_first][is_in_set])
        brings = is_in_set[of_pair] & ((depths < unit) | (depths <= last[owners[of_pair]]))
    else:
        is_full, brings = horizon >= unit, np.ones(len(order), dtype=bool)
    brings &= is_full[owners[of_pair]]
    wants = ~is_full[users] & (reach < (end if refill else unit))
    brought = order[brings]
    ranked, ranks = _ranked(users[of_list[brought]], pins[brought], of_list[brought], scores[brought])
    chosen = brought[ranked]
    sets = {
        "user_id": user_ids[users[of_list[chosen]]],
        "rank": ranks,
        "pin_id": pin_ids[pins[chosen]],
        "medoid_pin_id": lists["medoid_pin_id"].to_numpy()[of_list[chosen]],
        "score": scores[chosen],
    }
    return pl.DataFrame(sets, schema=NO_CANDIDATES.schema), lists.select("user_id", "medoid_pin_id").filter(wants)


NO_CANDIDATES = pl.DataFrame(
    schema={
        "user_id": pl.Int64,
        "rank": pl.Int32,
        "pin_id": pl.Int64,
        "medoid_pin_id": pl.Int64,
        "score": pl.Float32,
    }
)
"""The sets of nobody."""


def _unseen(
    lists: pl.DataFrame, users: NDArray[np.int64], user_ids: NDArray[np.int64], seen: pl.DataFrame
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """The neighbours that users have not seen, list by list.

    Returns:
        Of each neighbour the list, the pin's number and the cosine; and of each number the pin's id, ascending.
    """
    found = lists.select("pin_ids", "cosines").drop_nulls().explode("pin_ids", "cosines", empty_as_null=False)
    pin_ids, pins = np.unique(found["pin_ids"].to_numpy(), return_inverse=True)
    of_list = np.repeat(np.arange(len(lists)), lists["pin_ids"].list.len().fill_null(0).to_numpy())
    # Of what was seen, those that are users and pins here; where there is no pin, nothing is.
    seen_users, seen_pins = (seen[name].to_numpy() for name in ("user_id", "pin_id"))
    seen_users, seen_pins = (
        np.where(np.isin(wanted, known), np.searchsorted(known, wanted), -1)
        for wanted, known in ((seen_users, user_ids), (seen_pins, pin_ids))
    )
    is_here = (seen_users >= 0) & (seen_pins >= 0)
    pairs = seen_users[is_here] * len(pin_ids) + seen_pins[is_here]
    is_unseen = ~np.isin(users[of_list] * len(pin_ids) + pins, pairs, kind="sort")
    return of_list[is_unseen], pins[is_unseen], found["cosines"].to_numpy()[is_unseen], pin_ids


def _ranked(
    users: NDArray[np.int64],
    pins: NDArray[np.int64],
    of_list: NDArray[np.int64],
    scores: NDArray[np.float32],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of each user's pins the neighbour with the highest score, the first list where scores are equal; in order.

    Args:
        users: (n,) ascending numbers.
        pins: (n,) ascending within a user.
        of_list: (n,) which list a neighbour is of.
        scores: (n,) its cosine.

    Returns:
        Which of the n, by user, score (descending) and pin; and their ranks, from 1.
    """
    is_first = (np.diff(users, prepend=-1) != 0) | (np.diff(pins, prepend=-1) != 0)
    # The order of floats is that of their bits but for the sign; plus 0 has them of minus 0 as well.
    bits = (scores + np.float32(0)).view(np.uint32)
    ascending = np.where(bits >> 31, ~bits, bits | np.uint32(2**31)).astype(np.int64)
    of_pair, starts = np.cumsum(is_first) - 1, np.flatnonzero(is_first)
    if len(starts):
        is_best = ascending == np.maximum.reduceat(ascending, starts)[of_pair]
        first = np.minimum.reduceat(np.where(is_best, of_list, of_list.max() + 1), starts)
        best = np.flatnonzero(is_best & (of_list == first[of_pair]))
    else:
        best = starts
    order = best[np.argsort((users[best] << 32) - ascending[best], kind="stable")]
    counts = np.bincount(users[order], minlength=int(users.max(initial=-1)) + 1)
    return order, np.arange(len(order)) - (np.cumsum(counts) - counts)[users[order]] + 1


def _by_halves(
    drawn: pl.DataFrame, neighbours: pl.DataFrame, seen: pl.DataFrame, refill: bool, user_ids: NDArray[np.int64]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """As `candidate_sets`, of fewer users at once."""
    if len(user_ids) < 2:
        raise ValueError(
            f"the shares of user {user_ids[0]}, up to {drawn['share'].max():,} pins, are too large to be compared "
            "exactly: lower retrieval.budget"
        )
    middle = pl.col("user_id") < int(user_ids[len(user_ids) // 2])
    halves = [candidate_sets(drawn.filter(half), neighbours, seen, refill) for half in (middle, ~middle)]
    sets, wanting = (pl.concat(parts) for parts in zip(*halves, strict=True))
    return sets, wanting
