"""Who could have predicted the next action? (paper, section 3, Table 1)

Each action of a day is held against what is known at its moment: the user's actions of strictly earlier time. Actions
of the same timestamp (a basket, say) do not see each other.

What belongs here: the cosine of each model's representation and the next pin. What does not: which actions count (an
action on a pin without a vector can neither be known nor be predicted; it is the caller's to leave out and to count).
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pinnersage_assets.model.k_means import k_means, k_means_from
from pinnersage_assets.model.population import offsets_of
from pinnersage_assets.model.randomness import keyed_uniform

CENTROIDS = 3  # the k of Table 1
_MODELS = ("last_pin", "decay_average", "k_means_oracle", "oracle")


@dataclass(frozen=True)
class NextActions:
    """How near each model came to t actions, users ascending and a user's actions in the order of time.

    ``users`` (t,); ``actions`` (t,) the position of each in the input; ``cosines`` the t cosines (float64) of each
    model's representation and the next pin, by the model's name; ``without_past`` how many more targets there were,
    left out because their user had no earlier action.
    """

    users: NDArray[np.int64]
    actions: NDArray[np.int64]
    cosines: dict[str, NDArray[np.float64]]
    without_past: int


@dataclass(frozen=True)
class PredictedOfUsers:
    """Per user, ascending, (U,) int64 each: targets with a past, and how many of them each model predicted.

    Accuracy is ``predicted[model].sum() / targets.sum()`` over actions, and ``(predicted[model] / targets).mean()``
    over users, in which no busy user outweighs others.
    """

    users: NDArray[np.int64]
    targets: NDArray[np.int64]
    predicted: dict[str, NDArray[np.int64]]


def predict_next_actions(
    user_ids: NDArray[np.int64],
    times: NDArray[np.float64],
    pin_rows: NDArray[np.int64],
    is_target: NDArray[np.bool_],
    vectors: NDArray[np.float32],
    decay_per_day: float,
    keys: tuple[int, ...],
) -> NextActions:
    """Hold every target against four representations of its user's earlier actions.

    - ``last_pin``: the latest pin; of several at the latest time the one with the smallest row.
    - ``decay_average``: proportional to Σ exp(-λ (T_now - T)) P, T_now being the time of the target. (Its direction is
      the same for any T_now.)
    - ``k_means_oracle``: of the centroids of k-means with k = 3 over the earlier actions, the one nearest in cosine to
      the next pin. k-means starts (three times, the best is taken) from what a user had done before the first target,
      and for each later target goes on from there over all that has been done since. So each target sees centroids
      that k-means has converged to on exactly its past, at a fraction of the cost of new starts. While a user has
      three different vectors or fewer, each is a centroid, and k-means starts with the fourth.
    - ``oracle``: the earlier pin nearest to the next pin.

    Args:
        user_ids: (actions,) the user of each action, in any order.
        times: (actions,) when, in days from any origin.
        pin_rows: (actions,) the pin acted on, as a row of ``vectors``; rows stand in the order of pin ids.
        is_target: (actions,) whether it is to be predicted (it is an action of the day).
        vectors: (pins, d) float32 unit vectors.
        decay_per_day: λ.
        keys: what is random belongs to these (seed, day), and to the user.

    Returns:
        the cosines, which for a user do not depend on the other users, nor on the order of actions. A decay average or
        centroid of pins that cancel out is near nothing: its cosine is 0.

    Raises:
        ValueError: an argument is not as described above; names the argument.
    """
    _check_input(user_ids, times, pin_rows, is_target, vectors)
    # Of a moment the smallest row comes last, so that the last pin is the one before the moment of the target.
    order = np.lexsort((-pin_rows.astype(np.int64), times, user_ids))
    users, moments, rows = user_ids[order], times[order], pin_rows[order]
    new_user = np.append(True, users[1:] != users[:-1])[: len(order)]
    new_moment = new_user | np.append(True, moments[1:] != moments[:-1])[: len(order)]
    first_of_user = np.maximum.accumulate(np.where(new_user, np.arange(len(order)), 0))
    first_of_moment = np.maximum.accumulate(np.where(new_moment, np.arange(len(order)), 0))

    all_targets = np.flatnonzero(is_target[order])
    targets = all_targets[first_of_moment[all_targets] > first_of_user[all_targets]]
    cosines = {model: np.empty(len(targets)) for model in _MODELS}
    # One thread: see `k_means`.
    with threadpool_limits(limits=1):
        for start, end in pairwise(offsets_of(users[targets])):
            own = targets[start:end]
            first, last = first_of_user[own[0]], first_of_moment[own[-1]]
            ends, past_of = np.unique(first_of_moment[own] - first, return_inverse=True)
            known = vectors[rows[first:last]].astype(np.float64)
            wanted = vectors[rows[own]].astype(np.float64)
            to_known = np.where(np.arange(last - first) < ends[past_of, None], wanted @ known.T, -np.inf)
            averages = _decay_averages(known, moments[first:last], ends, decay_per_day)
            centroids = _centroids(known, ends, float(keyed_uniform("next action", *keys, users[first])))

            cosines["last_pin"][start:end] = to_known[np.arange(len(own)), ends[past_of] - 1]
            cosines["decay_average"][start:end] = _cosines(averages[past_of], wanted)
            cosines["k_means_oracle"][start:end] = [
                _cosines(centroids[past], pin).max() for past, pin in zip(past_of, wanted, strict=True)
            ]
            cosines["oracle"][start:end] = to_known.max(axis=1)
    return NextActions(users[targets], order[targets], cosines, len(all_targets) - len(targets))


def predicted_of_users(found: NextActions, relevance_cosine: float) -> PredictedOfUsers:
    """Count what was predicted: an action whose cosine with the representation is ``relevance_cosine`` or above."""
    offsets = offsets_of(found.users)
    targets = np.diff(offsets)
    numbers = np.repeat(np.arange(len(targets)), targets)
    predicted = {
        model: np.bincount(numbers[cosines >= relevance_cosine], minlength=len(targets))
        for model, cosines in found.cosines.items()
    }
    return PredictedOfUsers(found.users[offsets[:-1]], targets, predicted)


def _decay_averages(
    known: NDArray[np.float64], times: NDArray[np.float64], ends: NDArray[np.int64], decay_per_day: float
) -> NDArray[np.float64]:
    """For each end the sum that `decay_averages` is made of, over known[:end]; one product of matrices for a user."""
    # Relative to the youngest action of a past, so that old ones do not underflow all together. Later actions than
    # those of a past have negative ages, which must not overflow before they are left out.
    ages = times[ends - 1, None] - times
    weights = np.exp(-decay_per_day * np.maximum(ages, 0)) * (np.arange(len(times)) < ends[:, None])
    return weights @ known


def _centroids(known: NDArray[np.float64], ends: NDArray[np.int64], uniform: float) -> list[NDArray[np.float64]]:
    """For each end, ascending, the centroids of known[:end]."""
    found = []
    for end in ends:
        if found and len(found[-1]) == CENTROIDS:
            found.append(k_means_from(known[:end], found[-1]))
        else:
            labels = k_means(known[:end], np.ones(end, np.int64), CENTROIDS, uniform)
            members = labels == np.arange(labels.max() + 1)[:, None]
            found.append(members @ known[:end] / members.sum(axis=1, keepdims=True))
    return found


def _cosines(representations: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosines of vectors (n, d) of any length with one unit vector, or with n; 0 for a vector of length 0."""
    dots, norms = (representations * wanted).sum(axis=1), np.linalg.norm(representations, axis=1)
    return np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0)


def _check_input(
    user_ids: NDArray, times: NDArray, pin_rows: NDArray, is_target: NDArray, vectors: NDArray[np.float32]
) -> None:
    for name, array, kinds in (
        ("user_ids", user_ids, "iu"),
        ("pin_rows", pin_rows, "iu"),
        ("is_target", is_target, "b"),
    ):
        if array.ndim != 1 or array.shape != times.shape or array.dtype.kind not in kinds:
            raise ValueError(
                f"{name} must be {'booleans' if kinds == 'b' else 'integers'}, one a time: times are of shape "
                f"{times.shape}, {name} {array.dtype} of shape {array.shape}"
            )
    if not np.isfinite(times).all():
        raise ValueError("times must be finite days")
    if vectors.ndim != 2 or vectors.dtype != np.float32 or not np.isfinite(vectors).all():
        raise ValueError(
            f"vectors must be finite float32 of shape (pins, dimensions), not {vectors.dtype} of shape {vectors.shape}"
        )
    if pin_rows.size and not 0 <= pin_rows.min() <= pin_rows.max() < len(vectors):
        raise ValueError(f"pin_rows must be rows of vectors, 0 to {len(vectors) - 1}")
