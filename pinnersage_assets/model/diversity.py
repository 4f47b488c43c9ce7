"""How diverse recommendations are (paper, section 5.3.3, Figure 7), within a user's set and over all users.

Sets are given as `Pairs` of users 0 to U - 1 and rows. A user's own action pins are such a set as well: what Figure 7
compares recommendations with.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pinnersage_assets.model.population import LARGEST_CODE
from pinnersage_assets.model.randomness import keyed_uniform
from pinnersage_assets.model.selected_vectors import Vectors
from pinnersage_assets.model.user_sets import Pairs


def diversity(sets: Pairs, vectors: Vectors, users: int) -> NDArray[np.float64]:
    """The average cosine distance of the pairs of each user's set: the paper's definition (section 5.3.3).

    Of k unit vectors the cosines of all pairs add up to (|Σ v|² - k) / 2, so a set takes O(k d) instead of O(k² d).
    Here Σ |v|² stands for k, which float32 vectors of unit length miss by their rounding.

    Args:
        sets: the pins of each user.
        vectors: (m, d) unit vectors that rows point at.
        users: U.

    Returns:
        (U,) between 0 and 2; nan for a set of fewer than two pins, which has no pairs.
    """
    found = np.full(users, np.nan)
    for user, (start, end) in enumerate(pairwise(np.searchsorted(sets.users, np.arange(users + 1)))):
        if (size := end - start) > 1:
            points = vectors[sets.rows[start:end]].astype(np.float64)
            total = points.sum(axis=0)
            cosine = (total @ total - np.einsum("kd,kd->", points, points)) / (size * (size - 1))
            # Copies of one pin are at distance 0, which rounding misses on either side.
            found[user] = np.clip(1 - cosine, 0, 2)
    return found


def coverage(sets: Pairs, corpus_size: int) -> float:
    """The share of the corpus that is in some user's set; nan for an empty corpus."""
    # Counting takes a tenth of the time of finding the different ones.
    return np.count_nonzero(np.bincount(sets.rows, minlength=corpus_size)) / corpus_size if corpus_size else np.nan


def popular_rows(actions: NDArray[np.int64], chance: NDArray[np.float64]) -> NDArray[np.int64]:
    """All corpus rows (m,), the most popular first.

    Args:
        actions: (m,) how often each was acted on.
        chance: (m,) random numbers, by which equals are ordered.
    """
    return np.lexsort((chance, -actions))


def most_popular_rows(actions: NDArray[np.int64], keys: tuple[int | str, ...], size: int) -> NDArray[np.int64]:
    """The first of `popular_rows`, (min(size, m),), equals being ordered by chance keyed by the row.

    Args:
        actions: (m,) how often each was acted on.
        keys: as of `keyed_uniform`; the row is the last.
        size: how many.
    """
    if size < len(actions):
        # Below the last that is wanted nobody need be sorted, nor drawn a number.
        least = np.partition(actions, len(actions) - size)[len(actions) - size] if size else np.inf
        some = np.flatnonzero(actions >= least)
    else:
        some = np.arange(len(actions))
    return some[popular_rows(actions[some], keyed_uniform(*keys, some))][:size]


def overlap_with_popular(sets: Pairs, popular: NDArray[np.int64], users: int) -> NDArray[np.float64]:
    """The share of each user's set that is among the n most popular pins, n being the size of the set.

    The most popular are the same for all, whatever a user has seen: what a user could not be recommended counts too.

    Args:
        sets: the candidate sets.
        popular: (n,) the most popular corpus rows, the most popular first: all, or as many as the largest set has.
        users: U.

    Returns:
        (U,) between 0 and 1; nan for an empty set.
    """
    sizes = np.bincount(sets.users, minlength=users)
    rank = np.full(max(popular.max(initial=-1), sets.rows.max(initial=-1)) + 1, len(popular))
    rank[popular] = np.arange(len(popular))
    is_popular = rank[sets.rows] < sizes[sets.users]
    shared = np.bincount(sets.users[is_popular], minlength=users)
    return np.divide(shared, sizes, out=np.full(users, np.nan), where=sizes > 0)


def interest_entropy(owners: NDArray[np.int64], interests: NDArray[np.int64], users: int) -> NDArray[np.float64]:
    """Over how many interests each user's set is spread: the Shannon entropy of their shares of it, in bits.

    0 where all pins are of one interest, log2(n) where n have equal shares; in between, 2 to its power is the number of
    interests that would be as diverse with equal shares. An interest is what the caller says it is: the category of a
    pin (``categories[sets.rows]``), or the medoid that brought it.

    Args:
        owners: (pins,) the user of each recommended pin, in any order.
        interests: (pins,) the interest of each as any integer >= 0, or -1 for pins of unknown interest, which are left
            out.
        users: U.

    Returns:
        (U,) >= 0; nan for a user without a pin of known interest.
    """
    known = interests >= 0
    owners, interests = owners[known], interests[known]
    most = int(interests.max(initial=0)) + 1
    if most > LARGEST_CODE // max(users, 1):
        # Any integers will do: their places among all that there are, if need be.
        interests = np.searchsorted(np.unique(interests), interests)
        most = int(interests.max(initial=0)) + 1
    # One number a pair sorts a hundred times as fast as two.
    codes = np.sort(owners * most + interests)
    begins = np.flatnonzero(np.diff(codes, prepend=codes[:1] - 1))
    shares_of, counts = codes[begins] // most, np.diff(begins, append=len(codes))
    sizes = np.bincount(owners, minlength=users)
    shares = counts / sizes[shares_of]
    # Of a single share, which is 1, the entropy would be -0.
    entropy = np.bincount(shares_of, weights=shares * np.log2(1 / shares), minlength=users)
    return np.where(sizes > 0, entropy, np.nan)


def mean_of_defined(values: NDArray[np.float64]) -> float | None:
    """The mean over the users for whom there is a value (not nan); None where there is nobody."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else None
