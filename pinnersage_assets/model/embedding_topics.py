"""Topics of pins that nobody has sorted: clusters of their embeddings.

Callers hold the thread pools to one thread (`threadpool_limits`): how sums are rounded depends on how many there are.
"""

import numpy as np
from numpy.typing import NDArray

from pinnersage_assets.model.k_means import k_means_from
from pinnersage_assets.model.randomness import keyed_sample
from pinnersage_assets.model.selected_vectors import Vectors

# Topics, and pins to a topic by which they are found; of few pins there are fewer topics.
_TOPICS = 64
_PINS_A_TOPIC = 20
# Vectors compared with the centres at once.
_BLOCK = 4_096


def embedding_topics(pin_ids: NDArray[np.int64], vectors: Vectors) -> NDArray[np.int64]:
    """The topic of each pin: which of up to 64 centres is nearest, found by k-means among some of the pins.

    Args:
        pin_ids: (m,) ascending; which pins are taken to find the centres depends on them alone.
        vectors: (m, n) unit vectors.

    Returns:
        (m,) int64, from 0.
    """
    topics = min(_TOPICS, -(-len(pin_ids) // _PINS_A_TOPIC))
    if topics < 2:
        return np.zeros(len(pin_ids), dtype=np.int64)
    sample, starts = (keyed_sample(pin_ids, n * topics, "embedding topics") for n in (_PINS_A_TOPIC, 1))
    points = vectors[np.searchsorted(pin_ids, sample)].astype(np.float64)
    centres = k_means_from(points, points[np.searchsorted(sample, starts)])
    # The nearest of centres that are no unit vectors.
    halves = (centres**2).sum(axis=1) / 2
    blocks = (vectors[start : start + _BLOCK] for start in range(0, len(pin_ids), _BLOCK))
    return np.concatenate([(block @ centres.T - halves).argmax(axis=1) for block in blocks])
