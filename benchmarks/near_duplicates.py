"""Near-duplicates of simulated pins: our tables against exact products of blocks, at growing sizes, on one thread.

Run with ``OPENBLAS_NUM_THREADS=1 python benchmarks/near_duplicates.py``. Under "all at once" all pins are new; under
"a day of 1 %" the last hundredth of them meets the representatives of all others. Seconds are of processor time; those
of all at once are the least of some rounds over all sizes, since growth compares them with each other. The exact peer
is run where it takes half a minute or less. Pins of a topic are at a cosine of 0.77 to 0.91 to each other, so that a
large topic is a crowd.
"""

import math
import time

import numpy as np
from numpy.typing import NDArray

from pinnersage_assets.model.near_duplicates import group_near_duplicates
from pinnersage_assets.settings import Settings
from pinnersage_assets.sources.simulated_world import SimulatedWorld

PINS = 1_000_000
SHARES = (0.01, 0.03, 0.1, 0.3, 1.0)
ROUNDS = 3
LARGEST_EXACT = 100_000
BLOCK_ROWS = 2048


def main(pins: int = PINS) -> None:
    """Print seconds, ratios to the exact peer and to the growth of n log n, and what was found of what was planted."""
    settings = Settings()
    threshold = settings.corpus.near_duplicate_cosine
    world = SimulatedWorld(settings.simulation, settings.seed)
    print(f"cosine {threshold}, {settings.simulation.dimensions} dimensions, {settings.simulation.topics} topics")
    all_vectors = world.vectors(np.arange(1, pins + 1))
    sizes = [math.ceil(share * pins) for share in SHARES]
    least = dict.fromkeys(sizes, math.inf)
    groups = {}
    for _ in range(ROUNDS):
        for size in sizes:
            started = time.process_time()
            groups[size], _ = group_near_duplicates(all_vectors[:size], threshold, seed=settings.seed)
            least[size] = min(least[size], time.process_time() - started)
    smallest = sizes[0]
    for before, size in zip([smallest, *sizes], sizes, strict=False):
        vectors, canonical, seconds = all_vectors[:size], groups[size], least[size]
        planted = world.planted_original(np.arange(1, size + 1)) - 1
        growth = "".join(
            f"   x {seconds / least[base] / (size * math.log(size) / (base * math.log(base))):5.2f} of n log n "
            f"from {base:,}"
            for base in sorted({smallest, before} - {size, 1})
        )
        print(f"{size:9,} pins, all at once   {seconds:8.2f} s   x   1.00{growth}")

        if size <= LARGEST_EXACT:
            started = time.process_time()
            exact = exact_by_blocks(vectors, threshold)
            exact_seconds = time.process_time() - started
            same = np.mean(exact == canonical)
            print(
                f"{size:9,} pins, exact blocks  {exact_seconds:8.2f} s   x {exact_seconds / seconds:6.2f}   "
                f"the same representative for {same:.4%} of pins"
            )

        first_new = size - size // 100
        known = np.flatnonzero(canonical[:first_new] == np.arange(first_new))
        rows = np.concatenate([known, np.arange(first_new, size)])
        started = time.process_time()
        of_the_day, _ = group_near_duplicates(vectors[rows], threshold, len(known), seed=settings.seed)
        day_seconds = time.process_time() - started
        assert np.array_equal(rows[of_the_day[len(known) :]], canonical[first_new:])
        print(f"{size:9,} pins, a day of 1 %  {day_seconds:8.2f} s   x {day_seconds / seconds:6.2f}")

        repeats, found = planted != np.arange(size), canonical != np.arange(size)
        right = np.count_nonzero(found & (canonical == planted))
        recall, precision = right / max(1, repeats.sum()), right / max(1, found.sum())
        print(f"{size:9,} pins, planted: recall {recall:.5f}, precision {precision:.5f}", flush=True)


def exact_by_blocks(vectors: NDArray[np.float32], threshold: float) -> NDArray[np.int64]:
    """The representative of each pin, from the products of each block with all representatives before it."""
    canonical = np.arange(len(vectors))
    representatives = np.empty(0, dtype=np.int64)
    for start in range(0, len(vectors), BLOCK_ROWS):
        block = np.arange(start, min(start + BLOCK_ROWS, len(vectors)))
        best, nearest = np.full(len(block), -np.inf), block.copy()
        for first in range(0, len(representatives), BLOCK_ROWS):
            part = representatives[first : first + BLOCK_ROWS]
            products = vectors[block] @ vectors[part].T
            columns = products.argmax(axis=1)
            largest = products[np.arange(len(block)), columns]
            better = largest > best
            best[better], nearest[better] = largest[better], part[columns[better]]
        products = np.triu(vectors[block] @ vectors[block].T, k=1)
        for row in np.flatnonzero((products >= threshold).any(axis=1)):
            if best[row] < threshold:
                better = products[row] > np.maximum(best, threshold)
                best[better], nearest[better] = products[row, better], block[row]
        joins = best >= threshold
        canonical[block[joins]] = nearest[joins]
        representatives = np.concatenate([representatives, block[~joins]])
    return canonical


if __name__ == "__main__":
    main()
