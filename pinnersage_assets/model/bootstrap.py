"""How sure a difference between models is: bootstrap intervals that resample users (Efron and Tibshirani, 1993).

The days of one user are alike, and so are the actions of one day: as if drawn one by one, they would make intervals too
narrow. Users are drawn, each with all days.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

# Counts (resamples x users) held at once: 16 MB.
_COUNTS_AT_ONCE = 2_000_000


@dataclass(frozen=True)
class Intervals:
    """Per model, (models,) float64: its mean less the baseline's, and the ends of the interval of that."""

    differences: NDArray[np.float64]
    lows: NDArray[np.float64]
    highs: NDArray[np.float64]


def difference_intervals(
    users: ArrayLike,
    days: ArrayLike,
    scores: NDArray[np.floating],
    baseline: int,
    keys: tuple[int, ...],
    weights: NDArray[np.floating] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
) -> Intervals:
    """Compute the difference of each model's mean from a baseline's, with percentile intervals over users.

    The mean is Σ w score / Σ w over rows: with equal weights every user and day counts once, weighted with the number
    of actions every action does. A resample draws as many users as there are, with replacement; it is the same for all
    models, so models that score alike have an interval of [0, 0], and common ups and downs cancel out.

    Users are counted by drawing them (a multinomial), not by a Poisson number each: that would save nothing here, where
    all users are at hand, and its resamples would differ in size, down to none at all of few users.

    Args:
        users: (rows,) ids that can be sorted.
        days: (rows,) likewise; of a user each day once.
        scores: (rows, models); rows of weight 0 may hold anything, NaN included.
        baseline: the column to compare with.
        keys: what is random belongs to these.
        weights: (rows,) finite numbers >= 0; None means 1 each. Rows of weight 0 are as if they were not there: a user
            who has no others is not drawn.
        confidence: between 0 and 1.
        resamples: >= 1; ends of a 95 % interval are between some 50 of 2,000.

    Returns:
        Intervals. All NaN without rows of positive weight; ends NaN with a single user, who says nothing about others.
        The order of rows does not matter. With few users intervals are too narrow, as any percentile bootstrap's: in
        simulations those of 95 % hold the truth 91 % of the time with 10 users, 93 % with 20 and 94 % with 50.

    Raises:
        ValueError: an argument is not as described above; names the argument.
    """
    users, days, scores = np.asarray(users), np.asarray(days), np.asarray(scores)
    weights = np.ones(len(users)) if weights is None else np.asarray(weights, dtype=np.float64)
    _check(users, days, scores, baseline, weights, confidence, resamples)
    # Sums in the order of ids, since in another their last bits would differ.
    rows = np.lexsort((days, users))
    rows = rows[weights[rows] > 0]
    _, numbers = np.unique(users[rows], return_inverse=True)
    n_users, models = int(numbers.max(initial=-1)) + 1, scores.shape[1]
    if not n_users:
        return Intervals(*np.full((3, models), np.nan))

    # Per user, sums of weighted differences, and of weights in the last column: all that a resample needs.
    sums = np.empty((n_users, models + 1))
    sums[:, models] = np.bincount(numbers, weights[rows])
    compared_with = scores[rows, baseline].astype(np.float64)
    for model in range(models):
        sums[:, model] = np.bincount(numbers, weights[rows] * (scores[rows, model] - compared_with))
    differences = sums[:, :models].sum(axis=0) / sums[:, models].sum()
    if n_users == 1:
        return Intervals(differences, *np.full((2, models), np.nan))

    # NumPy takes no negative seeds.
    rng = np.random.default_rng([int(key) % 2**64 for key in keys])
    resampled = np.empty((resamples, models))
    at_once = max(1, _COUNTS_AT_ONCE // n_users)
    # One thread: the last bits of a product depend on their number.
    with threadpool_limits(limits=1):
        for start in range(0, resamples, at_once):
            counts = np.empty((min(at_once, resamples - start), n_users))
            for row in counts:
                row[:] = np.bincount(rng.integers(n_users, size=n_users), minlength=n_users)
            totals = counts @ sums
            resampled[start : start + len(counts)] = totals[:, :models] / totals[:, models:]
    tail = (1 - confidence) / 2
    return Intervals(differences, *np.quantile(resampled, [tail, 1 - tail], axis=0))


def _check(
    users: NDArray,
    days: NDArray,
    scores: NDArray,
    baseline: int,
    weights: NDArray[np.float64],
    confidence: float,
    resamples: int,
) -> None:
    if users.ndim != 1:
        raise ValueError(f"users must be of shape (rows,), not {users.shape}")
    for name, array in (("days", days), ("weights", weights)):
        if array.shape != users.shape:
            raise ValueError(f"{name} must be as many as users, {users.shape}, not {array.shape}")
    if scores.ndim != 2 or len(scores) != len(users):
        raise ValueError(f"scores must be of shape ({len(users)}, models), not {scores.shape}")
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError("weights must be finite numbers >= 0")
    if not np.isfinite(scores[weights > 0]).all():
        raise ValueError("scores must be finite where weights are not 0")
    order = np.lexsort((days, users))
    if ((users[order][1:] == users[order][:-1]) & (days[order][1:] == days[order][:-1])).any():
        raise ValueError("days must be there once for a user")
    if not 0 <= baseline < scores.shape[1]:
        raise ValueError(f"baseline must be a column of scores, 0 to {scores.shape[1] - 1}, not {baseline}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie strictly between 0 and 1, not {confidence}")
    if resamples < 1:
        raise ValueError(f"resamples must be >= 1, not {resamples}")
