"""How well embeddings rank what users did above what they passed over (paper, section 5.3.2 and Table 5).

A population is given by user numbers 0 to U - 1. Pins are rows of a matrix of vectors, -1 where an action is on a pin
that has none. What belongs here: candidates, their scores and the metrics. What does not: which models there are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pinnersage_assets.model.medoids import sample_by_importance
from pinnersage_assets.model.population import offsets_of
from pinnersage_assets.model.randomness import keyed_uniform
from pinnersage_assets.model.selected_vectors import Vectors
from pinnersage_assets.model.user_sets import Pairs

# Scores that differ by no more than this are ties; without it rounding (some 1e-7 of a float32 cosine, different from
# one matrix product to the next) would order pins of the same vector.
TIE = 1e-6

# Of a pool, pins are drawn with replacement and repetitions dropped; this often, then one by one.
_ROUNDS = 10
# Candidates of one user whose cosines are computed at once: bounds memory for users of many actions.
_CANDIDATES_AT_ONCE = 2048


@dataclass(frozen=True)
class Negatives:
    """Pins to be ranked below users' actions.

    ``pairs`` the pins; ``from_pool`` (U,) int64, how many of a user's come from the pool, not from impressions (the
    padding); ``missing`` (U,) int64, how many fewer there are than wanted, because the pool ran out.
    """

    pairs: Pairs
    from_pool: NDArray[np.int64]
    missing: NDArray[np.int64]


@dataclass(frozen=True)
class Candidates:
    """What is ranked: ``users`` (C,) int64 ascending; ``rows`` (C,) int64, -1 without a vector; ``is_action`` (C,)."""

    users: NDArray[np.int64]
    rows: NDArray[np.int64]
    is_action: NDArray[np.bool_]

    @classmethod
    def of(cls, action_users: NDArray[np.int64], action_rows: NDArray[np.int64], negatives: Pairs) -> "Candidates":
        """Put each user's actions, a row a pin, before the user's negatives."""
        users = np.concatenate([action_users, negatives.users]).astype(np.int64)
        rows = np.concatenate([action_rows, negatives.rows]).astype(np.int64)
        order = np.argsort(users, kind="stable")
        return cls(users[order], rows[order], order < len(action_users))

    @classmethod
    def joined(cls, parts: Sequence["Candidates"]) -> tuple["Candidates", NDArray[np.int64]]:
        """All parts as one, to be scored at once, and the part that each candidate comes from, in its order there."""
        users, rows, is_action = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("users", "rows", "is_action")
        )
        order = np.argsort(users, kind="stable")
        part = np.repeat(np.arange(len(parts)), [len(part.users) for part in parts])
        return cls(users[order], rows[order], is_action[order]), part[order]


@dataclass(frozen=True)
class RankMetrics:
    """Per user: ``actions`` (U,) int64; ``r_precision`` and ``reciprocal_rank`` (..., U) float64, NaN where no action.

    The mean over actions instead of over users is the mean weighted by ``actions``.
    """

    actions: NDArray[np.int64]
    r_precision: NDArray[np.float64]
    reciprocal_rank: NDArray[np.float64]


def draw_negatives(
    action_users: NDArray[np.int64],
    action_rows: NDArray[np.int64],
    impressions: Pairs,
    excluded: Pairs,
    pool_weights: NDArray[np.float64],
    negatives_per_action: int,
    user_ids: NDArray[np.int64],
    pin_ids: NDArray[np.int64],
    keys: tuple[int, ...],
) -> Negatives:
    """Draw negatives for each user: impressions not acted on, and what these lack from a pool.

    The kinds of negatives are a matter of arguments. The paper's are a user's impressions, padded from weights that are
    1 for every pin that may be recommended and 0 for others; random ones are the same without impressions; popular
    ones are without impressions and with the number of actions on a pin as its weight.

    Both are drawn one after another without replacement: impressions each as likely as the next (a pin shown twice is
    one), pins of the pool in proportion to their weights. No negative is one of the user's actions or excluded.

    Args:
        action_users: (actions,) user numbers in any order; a pin acted on several times stands there once.
        action_rows: (actions,) rows of pins, -1 for a pin without a vector.
        impressions: pins shown to users, acted on or not.
        excluded: pins that are no negatives of a user, such as those acted on in the window.
        pool_weights: (pins,) finite numbers >= 0; 0 is not in the pool.
        negatives_per_action: 20 in the paper.
        user_ids: (U,) the id of each user number.
        pin_ids: (pins,) the id of each row, ascending.
        keys: what is random belongs to these (seed, day), and to the ids of users and pins: a user's negatives depend
            neither on other users nor on rows outside impressions and pool.

    Returns:
        For each user ``negatives_per_action`` times as many negatives as actions, or as many as there are.

    Raises:
        ValueError: an argument is not as described above; names the argument.
    """
    users, pins = len(user_ids), len(pin_ids)
    _check_drawn_from(action_users, action_rows, impressions, excluded, pool_weights, users, pin_ids)
    if negatives_per_action < 0:
        raise ValueError(f"negatives_per_action must be >= 0, not {negatives_per_action}")
    wanted = negatives_per_action * np.bincount(action_users, minlength=users)

    known = action_rows >= 0
    barred = np.append(action_users[known] * pins + action_rows[known], excluded.users * pins + excluded.rows)
    shown = impressions.users * pins + impressions.rows
    shown = shown[~np.isin(shown, barred)]
    owners, rows = shown // pins, shown % pins
    uniforms = keyed_uniform("sampled impressions", *keys, user_ids[owners], pin_ids[rows])
    draw = sample_by_importance(np.ones(len(shown)), owners, max(1, len(shown)), uniforms)
    sampled = shown[draw < wanted[owners]]
    lacking = wanted - np.bincount(sampled // pins, minlength=users)

    drawn = _draw_from_pool(lacking, np.append(barred, sampled), pool_weights, user_ids, pin_ids, keys)
    from_pool = np.bincount(drawn // pins, minlength=users)
    negatives = np.append(sampled, drawn)
    return Negatives(Pairs.of(negatives // pins, negatives % pins), from_pool, lacking - from_pool)


def _draw_from_pool(
    wanted: NDArray[np.int64],
    taken: NDArray[np.int64],
    weights: NDArray[np.float64],
    user_ids: NDArray[np.int64],
    pin_ids: NDArray[np.int64],
    keys: tuple[int, ...],
) -> NDArray[np.int64]:
    """Draw different pins for each user in proportion to weights, none that is taken; pairs are user * pins + row.

    Independent draws of which repetitions and taken pins are dropped are draws without replacement of the others.
    """
    users, pins = len(user_ids), len(pin_ids)
    pool = np.flatnonzero(weights)
    taken = np.unique(taken)
    taken_of_pool = np.bincount(taken[weights[taken % pins] > 0] // pins, minlength=users)
    left = np.minimum(wanted, len(pool) - taken_of_pool)
    cumulated = np.cumsum(weights[pool])
    tried = np.zeros(users, dtype=np.int64)
    found = [np.empty(0, dtype=np.int64)]
    for _ in range(_ROUNDS):
        # As many as its own need says, so that a user's draws are nobody else's business.
        sizes = np.where(left > 0, 2 * left + 8, 0)
        if not sizes.any():
            break
        owners = np.repeat(np.arange(users), sizes)
        numbers = tried[owners] + _place_in_user(owners)
        places = keyed_uniform("sampled pool", *keys, user_ids[owners], numbers) * cumulated[-1]
        rows = pool[np.minimum(np.searchsorted(cumulated, places, side="right"), len(pool) - 1)]
        pairs = owners * pins + rows
        pairs = pairs[~np.isin(pairs, taken)]
        pairs = pairs[np.sort(np.unique(pairs, return_index=True)[1])]  # each where it was drawn first
        pairs = pairs[_place_in_user(pairs // pins) < left[pairs // pins]]
        found.append(pairs)
        taken = np.append(taken, pairs)
        left = left - np.bincount(pairs // pins, minlength=users)
        tried += sizes
    # Of these nearly all weight is taken: a draw would repeat for ever. All that is left of the pool is looked at.
    taken = np.sort(taken)
    for user in np.flatnonzero(left > 0):
        own = taken[slice(*np.searchsorted(taken, [user * pins, (user + 1) * pins]))] % pins
        rest = np.setdiff1d(pool, own, assume_unique=True)
        uniforms = keyed_uniform("rest of the pool", *keys, user_ids[user], pin_ids[rest])
        draw = sample_by_importance(weights[rest], np.zeros(len(rest), dtype=np.int64), int(left[user]), uniforms)
        found.append(user * pins + rest[draw >= 0])
    return np.concatenate(found)


def best_cosines(
    candidates: Candidates,
    vectors: Vectors,
    owners: NDArray[np.int64],
    embeddings: NDArray[np.float32],
    selections: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """Score each candidate by its largest cosine to any embedding of its user, for many selections of them at once.

    A cosine is computed once, whatever the number of selections: seeds and sizes of a sample of medoids, or models
    whose embeddings stand together in ``embeddings``.

    Args:
        candidates: of users that all have embeddings.
        vectors: (pins, d) unit vectors. A zero vector would be at cosine 0 to everything, above what is unlike: a pin
            without a vector is row -1 of ``candidates``.
        owners: (K,) user numbers, ascending: the user of each embedding.
        embeddings: (K, d) of unit length; a zero vector is as near to all pins, which then tie.
        selections: (S, K), which embeddings each selection uses, at least one of every user with candidates; None uses
            all.

    Returns:
        scores: (S, C) float32, or (C,) if ``selections`` is None; -inf for candidates without a vector.

    Raises:
        ValueError: an argument is not as described above; names the argument.
    """
    chosen = np.ones((1, len(owners)), dtype=bool) if selections is None else np.asarray(selections)
    _check_embeddings(candidates, vectors, owners, embeddings, chosen)
    scores = np.full((len(chosen), len(candidates.users)), -np.inf, dtype=np.float32)
    offsets = offsets_of(candidates.users)
    judged = candidates.users[offsets[:-1]]
    firsts, lasts = np.searchsorted(owners, judged), np.searchsorted(owners, judged, side="right")
    # One thread: on products this small more cost time, and their last bits would depend on the number.
    with threadpool_limits(limits=1):
        for (start, end), own in zip(pairwise(offsets), map(slice, firsts, lasts), strict=True):
            selection, which = np.nonzero(chosen[:, own])
            starts = np.searchsorted(selection, np.arange(len(chosen)))
            for first in range(start, end, _CANDIDATES_AT_ONCE):
                some = np.arange(first, min(first + _CANDIDATES_AT_ONCE, end))
                some = some[candidates.rows[some] >= 0]
                cosines = embeddings[own] @ vectors[candidates.rows[some]].T
                scores[:, some] = np.maximum.reduceat(cosines[which], starts, axis=0)
    return scores[0] if selections is None else scores


def rank_metrics(candidates: Candidates, scores: NDArray[np.floating], users: int) -> RankMetrics:
    """Rank each user's candidates by decreasing score, and say where the actions are.

    With k actions, R-precision is the share of them in the top k, and reciprocal rank the mean of 1 / rank over them.
    Candidates of equal score (within 1e-6 of the next) count by what a random order of them gives on average. Of b
    equals after s better ones, a of them actions, an action has each of the ranks s + 1 to s + b with probability
    1 / b. So a · min(max(k - s, 0), b) / b actions are expected in the top k, and 1 / rank is expected to be
    (H(s + b) - H(s)) / b, where H(n) = 1 + 1/2 + ... + 1/n.

    Candidates without a vector (score -inf) are thus last, in random order among themselves.

    Args:
        candidates: C of them.
        scores: (..., C), larger is better, -inf for what cannot be scored.
        users: U.

    Returns:
        Metrics of shape (..., U).

    Raises:
        ValueError: an argument is not as described above; names the argument.
    """
    scores = np.asarray(scores)
    owners, is_action = candidates.users, candidates.is_action
    if scores.shape[-1:] != owners.shape or np.isnan(scores).any() or np.isposinf(scores).any():
        raise ValueError(f"scores must be numbers or -inf, one for each of {len(owners)} candidates")
    if (owners[1:] < owners[:-1]).any() or (len(owners) and not 0 <= owners[0] <= owners[-1] < users):
        raise ValueError(f"candidates must be of users 0 to {users - 1}, ascending")

    sizes = np.bincount(owners, minlength=users)
    actions = np.bincount(owners[is_action], minlength=users)
    first_of_user = np.cumsum(sizes) - sizes
    # Numbers of 16 bits are sorted in linear time.
    narrow = owners.astype(np.min_scalar_type(users))
    harmonic = np.append(0.0, np.cumsum(1.0 / np.arange(1, sizes.max(initial=0) + 1)))

    def ranked(some: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Sums over each user's actions: expected to be in the top k, and expected 1 / rank."""
        # By users and then scores, in steps that are faster together than `lexsort`; ties in any order.
        order = np.argsort(-some)
        order = order[np.argsort(narrow[order], kind="stable")]
        better, worse = some[order][:-1], some[order][1:]
        with np.errstate(invalid="ignore"):  # -inf less -inf
            ties = (better == worse) | (better - worse <= TIE)
        starts = np.flatnonzero(np.append(True, ~ties | (np.diff(owners) > 0))[: len(order)])
        lengths = np.diff(starts, append=len(order))
        of = owners[starts]
        before = starts - first_of_user[of]
        share = np.add.reduceat(is_action[order], starts, dtype=np.int64) / lengths if len(starts) else lengths
        hits = share * np.clip(actions[of] - before, 0, lengths)
        reciprocals = share * (harmonic[before + lengths] - harmonic[before])
        expected = np.bincount(of, hits, minlength=users), np.bincount(of, reciprocals, minlength=users)
        # NumPy's types take sums of weights for integers.
        return expected  # ty: ignore[invalid-explicit-return]

    sums = np.empty((2, int(np.prod(scores.shape[:-1])), users))
    for number, some in enumerate(scores.reshape(sums.shape[1], len(owners))):
        sums[:, number] = ranked(some)
    means = np.divide(sums, actions, out=np.full(sums.shape, np.nan), where=actions > 0)
    r_precision, reciprocal_rank = means.reshape(2, *scores.shape[:-1], users)
    return RankMetrics(actions, r_precision, reciprocal_rank)


def _place_in_user(owners: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, 2, ... for the rows of each owner; ``owners`` is ascending."""
    return np.arange(len(owners)) - np.searchsorted(owners, owners)


def _check_drawn_from(
    action_users: NDArray,
    action_rows: NDArray,
    impressions: Pairs,
    excluded: Pairs,
    pool_weights: NDArray,
    users: int,
    pin_ids: NDArray,
) -> None:
    for name, owners, rows, lowest in (
        ("action_rows", action_users, action_rows, -1),
        ("impressions", impressions.users, impressions.rows, 0),
        ("excluded", excluded.users, excluded.rows, 0),
    ):
        if owners.shape != rows.shape:
            raise ValueError(f"{name} must be as many as their users, {owners.shape}, not {rows.shape}")
        if rows.size and not 0 <= owners.min() <= owners.max() < users:
            raise ValueError(f"{name} must be of users 0 to {users - 1}")
        if rows.size and not lowest <= rows.min() <= rows.max() < len(pin_ids):
            raise ValueError(f"{name} must be rows of pins, {lowest} to {len(pin_ids) - 1}")
    if pool_weights.shape != pin_ids.shape or not (np.isfinite(pool_weights) & (pool_weights >= 0)).all():
        raise ValueError(f"pool_weights must be {len(pin_ids)} finite numbers >= 0, one a pin")
    if (pin_ids[1:] <= pin_ids[:-1]).any():
        raise ValueError("pin_ids must be ascending, each once")


def _check_embeddings(
    candidates: Candidates, vectors: Vectors, owners: NDArray, embeddings: NDArray, selections: NDArray
) -> None:
    if candidates.rows.max(initial=-1) >= len(vectors):
        raise ValueError(f"candidates must be rows of vectors, below {len(vectors)}")
    if (candidates.users[1:] < candidates.users[:-1]).any():
        raise ValueError("candidates must be in ascending order of users")
    if embeddings.shape != (len(owners), vectors.shape[1]):
        raise ValueError(f"embeddings must be of shape {(len(owners), vectors.shape[1])}, not {embeddings.shape}")
    if (owners[1:] < owners[:-1]).any():
        raise ValueError("owners must be ascending")
    if selections.dtype != bool or selections.ndim != 2 or selections.shape[1] != len(owners):
        raise ValueError(
            f"selections must be bool of shape (selections, {len(owners)}), "
            f"not {selections.dtype} of shape {selections.shape}"
        )
    judged = np.unique(candidates.users)
    cumulated = np.cumsum(np.insert(selections, 0, False, axis=1), axis=1, dtype=np.int32)
    selected = cumulated[:, np.searchsorted(owners, judged, "right")] - cumulated[:, np.searchsorted(owners, judged)]
    if (selected == 0).any():
        selection, user = np.argwhere(selected == 0)[0]
        raise ValueError(f"selections must have an embedding of every user: {selection} has none of {judged[user]}")
