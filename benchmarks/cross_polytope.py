"""Cross-polytope LSH against HNSW and exact search at equal recall of the 100 nearest, at growing sizes.

Run with ``python benchmarks/cross_polytope.py``. Cosines are those computed a query: of LSH beside the inner products
of hashing and the buckets probed, of HNSW as USearch counts them. Queries are pins that are not in the corpus. LSH
takes the fewest probes that reach the recall on these queries, HNSW the smallest ef of a series.
"""

import time

import numpy as np

from pinnersage_assets.ann import cross_polytope, hnsw
from pinnersage_assets.ann.exact import exact_search, recall
from pinnersage_assets.settings import Settings
from pinnersage_assets.sources.simulated_world import SimulatedWorld

SIZES = ((1_000, 256), (10_000, 256), (30_000, 256), (100_000, 256), (30_000, 64), (100_000, 64))
RECALLS = (0.95, 0.975)
QUERIES = 500
K = 100
EXPANSIONS = (100, 110, 125, 140, 160, 180, 200, 250, 300, 400, 600, 1000)


def main() -> None:
    """Print what is looked at and how fast, of each method."""
    settings = Settings()
    for pins, dimensions in SIZES:
        world = SimulatedWorld(settings.simulation.model_copy(update={"dimensions": dimensions}), settings.seed)
        vectors, queries = world.vectors(np.arange(1, pins + 1)), world.vectors(pins + np.arange(1, QUERIES + 1))

        started = time.perf_counter()
        exact = exact_search(queries, vectors, K)[0]
        rate = QUERIES / (time.perf_counter() - started)
        print(f"{pins:7,} x {dimensions:3}  exact  cosines {pins:7,}  queries/s {rate:8,.0f}")

        parameters = cross_polytope.parameters_for(pins, dimensions)
        started = time.perf_counter()
        tables = cross_polytope.build(vectors, parameters, settings.seed)
        building = time.perf_counter() - started
        for target in RECALLS:
            started = time.perf_counter()
            probes = cross_polytope.probes_for_recall(tables, queries, exact, target)
            tuning = time.perf_counter() - started
            started = time.perf_counter()
            rows, _, computed = cross_polytope.search(tables, queries, K, probes)
            rate = QUERIES / (time.perf_counter() - started)
            print(
                f"{pins:7,} x {dimensions:3}  LSH    recall {recall(rows, exact):.4f}  cosines {computed.mean():7,.0f} "
                f"({computed.mean() / pins:6.1%}) + {tables.hashing_inner_products:5,} hashing, {probes:6,} probes  "
                f"queries/s {rate:8,.0f}  build {building:.2f} s, probes {tuning:.2f} s  {parameters}"
            )

        index_settings = settings.index
        index = hnsw.build(
            np.arange(pins),
            vectors,
            hnsw.HnswParameters(index_settings.connectivity, index_settings.expansion_add, K, index_settings.dtype),
        ).index
        for target in RECALLS:
            for expansion in EXPANSIONS:
                index.expansion_search = expansion
                started = time.perf_counter()
                matches = index.search(queries, K, threads=0)
                rate = QUERIES / (time.perf_counter() - started)
                reached = recall(matches.keys.astype(np.int64), exact)
                if reached >= target:
                    break
            computed = matches.computed_distances / QUERIES
            print(
                f"{pins:7,} x {dimensions:3}  HNSW   recall {reached:.4f}  cosines {computed:7,.0f} "
                f"({computed / pins:6.1%}), ef {expansion}  queries/s {rate:8,.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
