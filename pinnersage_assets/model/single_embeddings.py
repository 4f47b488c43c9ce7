"""A user as one vector: the baselines of the paper (section 3, and section 5.3)."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


def decay_averages(
    vectors: NDArray[np.float32],
    pin_rows: NDArray[np.int64],
    ages: NDArray[np.float64],
    offsets: NDArray[np.int64],
    decay_per_day: float,
) -> NDArray[np.float32]:
    """The time-decayed average of each user's action pins, of unit length: Σ exp(-λ age) P.

    Args:
        vectors: (pins, d) unit vectors.
        pin_rows: (actions,) the pin of each action, as a row of ``vectors``.
        ages: (actions,) days from the action to T_now.
        offsets: (users + 1,) user u owns actions offsets[u]:offsets[u + 1], at least one.
        decay_per_day: λ.

    Returns:
        (users, d) float32; a zero vector where a user's pins cancel out.
    """
    averages = np.zeros((len(offsets) - 1, vectors.shape[1]))
    for user, (start, end) in enumerate(pairwise(offsets)):
        # Relative to the youngest action, so that old ones do not underflow all together.
        weights = np.exp(-decay_per_day * (ages[start:end] - ages[start:end].min()))
        averages[user] = weights @ vectors[pin_rows[start:end]].astype(np.float64)
    norms = np.linalg.norm(averages, axis=1, keepdims=True)
    return np.divide(averages, norms, out=np.zeros_like(averages), where=norms > 0).astype(np.float32)
