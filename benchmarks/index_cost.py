"""Table 2 on a large corpus: what it costs to find as much as HNSW does by LSH, by product quantisation, exactly.

Run with ``python benchmarks/index_cost.py`` (extra ``bench``). All find the 100 nearest of the same simulated pins for
500 others, on one thread, at the recall that HNSW has as our settings build it. Costs are distance computations of a
query, with the inner products of hashing, and processor time; "x" is the cost of HNSW over the row's.

Product quantisation is faiss's: an inverted file of 4 sqrt(m) lists, 64 codes of 8 bits, and exact re-ranking of the
best. Probed lists or re-ranked pins are raised, whichever gains more recall, until it is reached; a distance to a code
is counted as one, though it takes 64 additions where others take 256 products. The same comparison,
without product quantisation, is the asset ``evaluation.index_cost``.
"""

import math
import sys
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pinnersage_assets.ann.costs import SearchCost, hnsw_cost, orthoplex_cost
from pinnersage_assets.ann.exact import exact_search, recall
from pinnersage_assets.ann.hnsw import build
from pinnersage_assets.lineage.corpus_index import parameters_of
from pinnersage_assets.settings import Settings
from pinnersage_assets.sources.simulated_world import SimulatedWorld

PINS = 200_000
SHARES = (0.1, 1.0)
QUERIES = 500
NEIGHBOURS = 100
CODES = 64


def quantisation_cost(vectors: NDArray[np.float32], queries: NDArray[np.float32], k: int, target: float) -> SearchCost:
    """Product quantisation of faiss, looking as far as the target takes."""
    import faiss

    lists = max(1, min(int(4 * math.sqrt(len(vectors))), len(vectors) // 40))
    coarse = faiss.IndexFlatIP(vectors.shape[1])
    # faiss wants 39 training vectors a centroid; with few vectors, codes of fewer bits.
    bits = max(1, min(8, int(math.log2(max(2, len(vectors) / 39)))))
    codes = faiss.IndexIVFPQ(coarse, vectors.shape[1], lists, CODES, bits, faiss.METRIC_INNER_PRODUCT)
    # As few vectors as there may be: a warning for each of the 64 codes would bury the table.
    codes.cp.min_points_per_centroid = codes.pq.cp.min_points_per_centroid = 1
    codes.train(vectors)
    codes.add(vectors)
    index = faiss.IndexRefineFlat(codes, faiss.swig_ptr(vectors))
    exact, _ = exact_search(queries, vectors, k)

    def cost(probes: int, factor: float) -> SearchCost:
        codes.nprobe, index.k_factor = probes, factor
        faiss.cvar.indexIVF_stats.reset()
        started = time.process_time()
        _, found = index.search(queries, k)
        seconds = time.process_time() - started
        scanned = faiss.cvar.indexIVF_stats.ndis / len(queries)
        return SearchCost(recall(found, exact), scanned + lists + factor * k, seconds / len(queries))

    probes, factor = 1, 1.0
    found = cost(probes, factor)
    while found.recall < target and (probes < lists or factor * k < len(vectors)):
        wider, deeper = cost(min(lists, math.ceil(1.3 * probes)), factor), cost(probes, 1.3 * factor)
        if wider.recall - found.recall > deeper.recall - found.recall:
            probes, found = min(lists, math.ceil(1.3 * probes)), wider
        else:
            factor, found = 1.3 * factor, deeper
    return found


def main(pins: int = PINS) -> None:
    """Print recall, distances and processor time of each technique."""
    try:
        import faiss
    except ImportError as error:
        raise SystemExit(f"{Path(__file__).name} needs its peers: pip install -e '.[bench]' ({error})") from error
    faiss.omp_set_num_threads(1)
    settings = Settings()
    parameters = parameters_of(settings)
    world = SimulatedWorld(settings.simulation, settings.seed)
    with threadpool_limits(1):
        for size in [max(1, int(share * pins)) for share in SHARES]:
            count = min(QUERIES, size)
            both = world.vectors(np.arange(1, size + count + 1))
            vectors, queries, k = both[:size], both[size:], min(NEIGHBOURS, size)
            hnsw = hnsw_cost(build(np.arange(size), vectors, parameters), queries, k)
            started = time.process_time()
            exact_search(queries, vectors, k)
            exact = SearchCost(1.0, size, (time.process_time() - started) / count)
            costs = {
                "HNSW": hnsw,
                "LSH orthoplex": orthoplex_cost(vectors, queries, k, hnsw.recall, settings.seed),
                "product quantisation": quantisation_cost(vectors, queries, k, hnsw.recall),
                "exact": exact,
            }
            for name, cost in costs.items():
                print(
                    f"{size:9,} pins  {name:20} recall {cost.recall:.4f}  {cost.distances:9,.0f} distances "
                    f"x {hnsw.distances / cost.distances:5.3f}  {cost.seconds * 1e6:7,.0f} us "
                    f"x {hnsw.seconds / cost.seconds:5.3f}",
                    flush=True,
                )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
