"""Importance learnt from what users did with what they were shown: the paper leaves it as future work (section 7).

Equation 3 says what a user did by themselves. Impressions say more: an interest whose pins are shown and passed over is
worth less than one whose pins are taken up, and one whose pins are hidden less still.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pinnersage_assets.model.population import batches

# Pairs of an impression and a medoid of its user whose vectors are gathered at once.
_PAIRS = 10_000


def feedback_factors(
    impression_users: ArrayLike,
    impression_rows: ArrayLike,
    ages: ArrayLike,
    outcomes: ArrayLike,
    medoid_users: ArrayLike,
    medoid_rows: ArrayLike,
    vectors: NDArray[np.float32],
    decay_per_day: float,
    strength: float,
    minimal_cosine: float,
    minimal_factor: float = 0.1,
    maximal_factor: float = 10.0,
) -> NDArray[np.float64]:
    """Compute by how much feedback raises or lowers the importance of each medoid.

    An impression is credited to the nearest of its user's medoids, if that is near enough. With weights
    w = exp(-λ age), outcomes y, and the population's rate p = Σ w [y = 1] / Σ w over all that is credited, the factor
    of a medoid is, over what is credited to it::

        (Σ w y + strength · p) / (Σ w + strength) / p

    Its first part is a rate shrunk towards p: the posterior mean under a Beta
    prior of mean p that weighs as much as ``strength`` impressions of today, and which comes from the data, as in
    empirical Bayes (its strength does not, and a hide, counted as -1, has no place in a Beta model, so the likeness
    ends there). So few impressions say little, and many speak for themselves. Divided by p it is a relative rate: 1 for
    what is taken up as often as the average, so that factors reorder a user's interests but keep Equation 3's scale.

    Args:
        impression_users: (impressions,) integers, in any order.
        impression_rows: (impressions,) the pin shown, as a row of ``vectors``.
        ages: (impressions,) days from the impression to T_now, >= 0.
        outcomes: (impressions,) 1 if an action of interest on the pin followed, 0 if nothing did, -1 if it was hidden.
        medoid_users: (K,) integers, ascending; the same numbers as in ``impression_users``.
        medoid_rows: (K,) the medoid, as a row of ``vectors``.
        vectors: (pins, d) unit vectors.
        decay_per_day: λ, >= 0.
        strength: how many impressions of today the population's rate weighs as much as, >= 0.
        minimal_cosine: impressions further than this from all medoids of the user are credited to none.
        minimal_factor: smaller factors become this; > 0, so that no interest is lost for good.
        maximal_factor: larger factors become this.

    Returns:
        factors: (K,) float64, for Equation 3's importance to be multiplied by. 1 for medoids that nothing is credited
        to, and for all if nothing credited was taken up (p = 0). Equally near medoids: the earlier one gets the credit.
        A user's factors depend on other users through p alone.

    Raises:
        ValueError: an argument is not as described above; names the argument.
    """
    users, rows, ages, outcomes = map(np.asarray, (impression_users, impression_rows, ages, outcomes))
    owners, medoid_rows = np.asarray(medoid_users), np.asarray(medoid_rows)
    _check_impressions(users, rows, ages, outcomes, len(vectors))
    _check_medoids(owners, medoid_rows, len(vectors))
    if not 0 <= decay_per_day < np.inf:
        raise ValueError(f"decay_per_day must be a finite number >= 0, not {decay_per_day}")
    if not 0 <= strength < np.inf:
        raise ValueError(f"strength must be a finite number >= 0, not {strength}")
    if not -1 <= minimal_cosine <= 1:
        raise ValueError(f"minimal_cosine must be a cosine, -1 to 1, not {minimal_cosine}")
    if not 0 < minimal_factor <= 1 <= maximal_factor < np.inf:
        raise ValueError(
            "minimal_factor and maximal_factor must enclose 1, and be above 0 and finite, "
            f"not {minimal_factor} and {maximal_factor}"
        )

    credited = _credited(users, rows, owners, medoid_rows, vectors, minimal_cosine)
    to_any = credited >= 0
    credited, outcomes = credited[to_any], outcomes[to_any]
    weights = np.exp(-decay_per_day * ages[to_any])
    factors = np.ones(len(owners))
    taken_up = weights[outcomes == 1].sum()
    if taken_up > 0:
        rate = taken_up / weights.sum()
        shown = np.bincount(credited, weights, minlength=len(owners))
        balance = np.bincount(credited, weights * outcomes, minlength=len(owners))
        known = shown > 0
        factors[known] = (balance[known] + strength * rate) / (shown[known] + strength) / rate
    return np.clip(factors, minimal_factor, maximal_factor)


def _credited(
    users: NDArray[np.integer],
    rows: NDArray[np.integer],
    owners: NDArray[np.integer],
    medoid_rows: NDArray[np.integer],
    vectors: NDArray[np.float32],
    minimal_cosine: float,
) -> NDArray[np.int64]:
    """Find the medoid, 0 to K - 1, that each impression is credited to; -1 for none."""
    credited = np.full(len(users), -1, dtype=np.int64)
    start_of_user = np.searchsorted(owners, users, side="left")
    n_medoids = np.searchsorted(owners, users, side="right") - start_of_user
    judged = np.flatnonzero(n_medoids)  # `reduceat` has no empty segments
    offsets = np.concatenate([[0], np.cumsum(n_medoids[judged])])
    for first, last in batches(offsets, _PAIRS):
        some = judged[first:last]
        starts = offsets[first:last] - offsets[first]
        which = np.repeat(np.arange(len(some)), n_medoids[some])
        medoids = np.arange(len(which)) + (start_of_user[some] - starts)[which]
        shown, own = vectors[rows[some]].astype(np.float64), vectors[medoid_rows[medoids]].astype(np.float64)
        cosines = np.einsum("pd,pd->p", shown[which], own)
        largest = np.maximum.reduceat(cosines, starts)
        nearest = np.minimum.reduceat(np.where(cosines == largest[which], medoids, len(owners)), starts)
        credited[some] = np.where(largest >= minimal_cosine, nearest, -1)
    return credited


def _check_impressions(users: NDArray, rows: NDArray, ages: NDArray, outcomes: NDArray, pins: int) -> None:
    for name, array in (("impression_users", users), ("impression_rows", rows), ("outcomes", outcomes)):
        if array.ndim != 1 or array.shape != ages.shape or (array.size and array.dtype.kind not in "iu"):
            raise ValueError(
                f"{name} must be integers, one an age: ages are of shape {ages.shape}, "
                f"{name} {array.dtype} of shape {array.shape}"
            )
    if not (np.isfinite(ages) & (ages >= 0)).all():
        raise ValueError("ages must be finite days >= 0: an impression after T_now belongs to a later day")
    if not np.isin(outcomes, (-1, 0, 1)).all():
        raise ValueError("outcomes must be 1 (taken up), 0 (nothing) or -1 (hidden)")
    if rows.size and not 0 <= rows.min() <= rows.max() < pins:
        raise ValueError(f"impression_rows must be rows of vectors, 0 to {pins - 1}")


def _check_medoids(owners: NDArray, rows: NDArray, pins: int) -> None:
    for name, array in (("medoid_users", owners), ("medoid_rows", rows)):
        if array.ndim != 1 or array.shape != owners.shape or (array.size and array.dtype.kind not in "iu"):
            raise ValueError(
                f"{name} must be integers, one a medoid, not {array.dtype} of shape {array.shape} for "
                f"{owners.shape} medoids"
            )
    if (np.diff(owners) < 0).any():
        raise ValueError("medoid_users must be ascending")
    if rows.size and not 0 <= rows.min() <= rows.max() < pins:
        raise ValueError(f"medoid_rows must be rows of vectors, 0 to {pins - 1}")
