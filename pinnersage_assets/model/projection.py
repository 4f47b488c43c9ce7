"""Vectors on a plane, to look at."""

import numpy as np
from numpy.typing import NDArray


def project(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float64], float]:
    """The first two principal components (PCA), each with the sign that makes its largest loading positive.

    Args:
        vectors: (m, n).

    Returns:
        coordinates (m, 2), zero where there is no second direction; and the share of the variance that they hold, 1
        where there is none at all.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    variances, directions = np.linalg.eigh(centred.T @ centred)
    axes = directions[:, ::-1][:, :2]
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])] < 0, -1.0, 1.0)
    total = variances.sum()
    if total <= 1e-12 * max(1, len(vectors)):
        return np.zeros((len(vectors), 2)), 1.0
    coordinates = np.zeros((len(vectors), 2))
    coordinates[:, : axes.shape[1]] = centred @ axes
    return coordinates, float(variances[-2:].sum() / total)
