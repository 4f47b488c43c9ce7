"""As many of the nearest pins as are wanted, also among those for which a condition holds: USearch has no filter."""

import numpy as np
from numpy.typing import NDArray

from pinnersage_assets.ann.exact import ExactIndex, exact_search
from pinnersage_assets.ann.hnsw import HnswIndex
from pinnersage_assets.ann.shards import ShardedIndex
from pinnersage_assets.model.selected_vectors import selected

CorpusIndex = ExactIndex | HnswIndex | ShardedIndex

# Neighbours asked for, to those that a restriction which had nothing to do with the query would need.
_SLACK = 3
# Neighbours held at once, of 13 bytes each.
_NEIGHBOURS_AT_ONCE = 8_000_000


def search_whole(index: CorpusIndex, queries: NDArray[np.float32], k: int, exactly: bool = False) -> NDArray[np.int64]:
    """The k nearest pins of each query as rows of ``index.ids``, (q, min(k, m)); of no query fewer.

    With ``exactly`` the index is not asked, but its vectors are.
    """
    if exactly:
        return exact_search(queries, index.vectors, k)[0]
    k = min(k, len(index.ids))
    found, depth = index.search_rows(queries, k)[0], k
    # This ends: a search for more than a tenth of the corpus is exact.
    while len(short := np.flatnonzero((found == -1).any(axis=1))):
        depth *= 4
        found[short] = index.search_rows(queries[short], depth)[0][:, :k]
    return found


def search_among(
    index: CorpusIndex, queries: NDArray[np.float32], k: int, allowed: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The k nearest allowed pins of each query; of no query fewer, as long as there are k.

    HNSW is asked for more neighbours where too few of them are allowed, and what would take more than a tenth of the
    corpus is searched exactly among the allowed.

    Args:
        index: of m pins.
        queries: (q, n) unit vectors.
        k: how many to find.
        allowed: (m,) which of ``index.ids`` may be found.

    Returns:
        ids and cosines, both (q, min(k, allowed pins)), nearest first; equally near ones by id.
    """
    among = ExactIndex(index.ids[allowed], selected(index.vectors, allowed))
    k = min(k, len(among.ids))
    depth = int(_SLACK * k * len(index.ids) / max(1, len(among.ids)))
    if isinstance(index, ExactIndex) or depth >= index.scans_from:
        return among.search(queries, k)
    # So many are looked at in any case.
    depth = max(depth, index.expansion_search)
    ids = np.empty((len(queries), k), dtype=np.int64)
    cosines = np.empty((len(queries), k), dtype=np.float32)
    waiting = np.arange(len(queries))
    while len(waiting) and depth < index.scans_from:
        unsatisfied = []
        for some in np.array_split(waiting, len(waiting) * depth // _NEIGHBOURS_AT_ONCE + 1):
            found, scores = index.search(queries[some], depth)
            # Of a list's second half HNSW misses too many: all that are wanted must be in the first.
            found, scores = found[:, : depth // 2], scores[:, : depth // 2]
            kept = np.isin(found, among.ids)
            enough = np.count_nonzero(kept, axis=1) >= k
            # The first k that are kept: a stable sort brings them to the front in their order.
            places = np.argsort(~kept[enough], axis=1, kind="stable")[:, :k]
            ids[some[enough]] = np.take_along_axis(found[enough], places, axis=1)
            cosines[some[enough]] = np.take_along_axis(scores[enough], places, axis=1)
            unsatisfied.append(some[~enough])
        waiting, depth = np.concatenate(unsatisfied), 2 * depth
    ids[waiting], cosines[waiting] = among.search(queries[waiting], k)
    return ids, cosines
