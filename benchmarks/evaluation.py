"""The offline evaluation without its queries: Table 4, Table 5 and Figure 7, all models, for a sample of users.

Run with ``python benchmarks/evaluation.py``: 2,000 users with some 70 actions (from 5 to 2,000) on 100,000 pins of 256
dimensions, who have seen their own pins and did two or three new things. Each stage runs in a process of its own, as
Dagster's runs do, so that the memory is its own, and clusters users itself. The peer is a loop over users and sets that
follows the definitions, on a few users, scaled up; its counts and metrics must be the same.
"""

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pinnersage_assets.ann.exact import exact_search
from pinnersage_assets.model.diversity import most_popular_rows
from pinnersage_assets.model.ranking_metrics import TIE, Candidates, best_cosines, draw_negatives, rank_metrics
from pinnersage_assets.model.retrieval_task import (
    RetrievalTask,
    Targets,
    judge_sets,
    judge_variants,
    popular_sets,
    random_sets,
)
from pinnersage_assets.model.user_sets import Pairs
from pinnersage_assets.model.variants import VARIANTS, UserEmbeddings, Variant

USERS, PINS_A_USER, DIMENSIONS, PINS_A_TOPIC, INTERESTS = 2_000, 50, 256, 50, 12
# Sizes by which growth is told; to see that it runs, two will do.
SHARES, FEW_SHARES, FEW_USERS = (0.25, 0.5, 1.0), (0.5, 1.0), 100
PEER_USERS = 4
# The defaults of the settings, without Dagster, which is loaded with these and would be in each of the processes.
SEEDS, BUDGET, LARGEST_SHARE, RELEVANCE_COSINE, NEGATIVES_PER_ACTION, ALPHA = 20, 400, 0.04, 0.8, 20, 1.2
KEYS = {seed: (seed, 0) for seed in range(SEEDS)}
MOST_EMBEDDINGS = 10


@dataclass(frozen=True)
class World:
    """What the stages are given: users 0 to U - 1 and pins 0 to m - 1, all of them in the corpus."""

    population: UserEmbeddings
    task: RetrievalTask
    popularity: NDArray[np.int64]
    impressions: Pairs

    @property
    def users(self) -> NDArray[np.int64]:
        """Ids, which are numbers."""
        return np.arange(self.task.users)

    def search(self, queries: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        """The nearest pins."""
        return exact_search(queries, self.task.corpus, k)[0]


def main(users: int = USERS) -> None:
    """Print seconds, memory, growth with the number of users, and the ratio to the peer."""
    pins, few = PINS_A_USER * users, min(users, PEER_USERS)
    sizes = [max(few, int(share * users)) for share in (SHARES if users > FEW_USERS else FEW_SHARES)]
    print(f"{users:,} users, {pins:,} pins of {DIMENSIONS} floats, {len(VARIANTS)} models, {len(KEYS)} seeds")
    total, most = 0.0, 0.0
    for name, (stage, loop) in STAGES.items():
        runs = [alone(stage, pins, size) for size in sizes]
        ours, (peer, expected) = alone(stage, pins, few)[0], alone(loop, pins, few)[0]
        # Rounding decides between pins that are nearly as near.
        differ = [~np.isclose(ours[1][array], expected[array], 1e-6, equal_nan=True) for array in expected]
        assert np.mean(np.concatenate(differ, axis=None)) < 0.01, f"{name} is not what the definitions say"
        (seconds, _), processor, memory = runs[-1]
        growth = np.polyfit(np.log(sizes), np.log([run[1] for run in runs]), 1)[0]
        ratio = peer * users / few / processor
        print(
            f"{name:10} {seconds:7.1f} s {processor:7.1f} s of processors {memory:7,.0f} MiB   "
            f"grows with users to the {growth:4.2f}   the peer takes x {ratio:7.1f}",
            flush=True,
        )
        total, most = total + seconds, max(most, memory)
    print(f"{'together':10} {total:7.1f} s {most:43,.0f} MiB, at the most   (aim: x {120 / total:.1f} below 2 minutes)")


def alone(work: Callable, pins: int, users: int) -> tuple[tuple[float, dict], float, float]:
    """Run in a fresh process: its result, and the processor's seconds and the peak memory in MiB, making data not."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=measured, args=(there, work, pins, users))
    process.start()
    there.close()
    result = here.recv()
    process.join()
    return result


def measured(answer, work: Callable, pins: int, users: int) -> None:
    world = build(pins, users)
    started = time.perf_counter(), time.process_time()
    arrays = work(world)
    seconds, processor = time.perf_counter() - started[0], time.process_time() - started[1]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    answer.send(((seconds, arrays), processor, memory) if work not in PEERS else ((processor, arrays), 0.0, 0.0))


def build(pins: int, users: int) -> World:
    """Simulate the first users of a population: each has its own chance, whatever their number."""
    rng = np.random.default_rng(0)
    topics = max(1, pins // PINS_A_TOPIC)
    topic_of_pin = np.sort(rng.integers(topics, size=pins))
    centres = rng.standard_normal((topics, DIMENSIONS), dtype=np.float32)
    vectors = rng.standard_normal((pins, DIMENSIONS), dtype=np.float32)
    vectors *= np.float32(0.48)
    vectors += centres[topic_of_pin]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    bounds = np.searchsorted(topic_of_pin, np.arange(topics + 1))
    acted, ages, wanted, shown = [], [], [], []
    for user in range(users):
        own = np.random.default_rng([1, user])
        count = int(np.clip(70 * np.exp(0.8 * own.standard_normal()), 5, 2000))
        interests = own.integers(topics, size=INTERESTS)

        def pins_of(count: int, own=own, interests=interests) -> NDArray[np.int64]:
            topic = interests[np.minimum(own.geometric(0.2, size=count), INTERESTS) - 1]
            lengths = bounds[topic + 1] - bounds[topic]
            drawn = bounds[topic] + (own.random(count) * lengths).astype(np.int64)
            return np.where(lengths > 0, drawn, own.integers(pins, size=count))

        acted.append(pins_of(count))
        ages.append(90 * own.random(count))
        wanted.append(np.setdiff1d(pins_of(own.integers(2, 4)), acted[-1]))
        shown.append(np.append(pins_of(10), own.integers(pins, size=10)))
    of_action = np.repeat(np.arange(users), [len(own) for own in acted])
    rows = np.concatenate(acted)
    pairs = Pairs.of(np.repeat(np.arange(users), [len(own) for own in wanted]), np.concatenate(wanted))
    budget = max(1, min(BUDGET, int(LARGEST_SHARE * pins)))
    task = RetrievalTask(
        users,
        vectors,
        Pairs.of(of_action, rows),
        Targets(pairs.users, pairs.rows, vectors[pairs.rows]),
        budget,
        RELEVANCE_COSINE,
    )
    alpha = ALPHA
    population = UserEmbeddings(of_action, rows, np.concatenate(ages), np.arange(pins), vectors, alpha, (0, 0))
    impressions = Pairs.of(np.repeat(np.arange(users), [len(own) for own in shown]), np.concatenate(shown))
    return World(population, task, np.bincount(rows, minlength=pins), impressions)


def table_4(world: World) -> dict[str, NDArray]:
    _, counts = judge_variants(world.population, world.users, VARIANTS, KEYS, world.task, world.search, silent)
    controls = judge_sets(world.task, control_sets(world))
    return {name: np.concatenate([array, vars(controls)[name]]) for name, array in vars(counts).items()}


def control_sets(world: World) -> list[Pairs]:
    # As many as the budget beyond what anybody has seen.
    size = world.task.budget + int(np.bincount(world.task.seen.users).max(initial=0))
    return [random_sets(world.task, [(*key, user) for user in world.users.tolist()]) for key in KEYS.values()] + [
        popular_sets(world.task, most_popular_rows(world.popularity, ("popular", *key), size)) for key in KEYS.values()
    ]


def table_4_peer(world: World) -> dict[str, NDArray]:
    sets = [chosen_sets(world, variant, keys) for variant in VARIANTS.values() for keys in keys_of(variant)]
    for pairs in control_sets(world):
        sets.append([set(pairs.rows[pairs.users == user].tolist()) for user in world.users])
    return judged(world, sets)


def figure_7(world: World) -> dict[str, NDArray]:
    variants = {str(e): Variant(embeddings=e) for e in range(1, MOST_EMBEDDINGS + 1)}
    kept = []
    _, counts = judge_variants(
        world.population,
        world.users,
        variants,
        {0: KEYS[0]},
        world.task,
        world.search,
        silent,
        keep=lambda name, seed, user, rows: kept.append((int(name), user, rows)),
    )
    kept.sort(key=lambda set_of_user: set_of_user[:2])
    return vars(counts) | {"kept": np.array([int(np.sum(rows)) for _, _, rows in kept]).reshape(len(variants), -1)}


def figure_7_peer(world: World) -> dict[str, NDArray]:
    sets = [chosen_sets(world, Variant(embeddings=e), KEYS[0]) for e in range(1, MOST_EMBEDDINGS + 1)]
    return judged(world, sets) | {"kept": np.array([[sum(rows) for rows in of_users] for of_users in sets])}


def keys_of(variant: Variant) -> list[tuple[int, ...]]:
    return list(KEYS.values())[: None if variant.selection == "sampled" else 1]


def chosen_sets(world: World, variant: Variant, keys: tuple[int, ...]) -> list[set[int]]:
    """Candidate sets by the definition: the least places over shares, of all pins."""
    task, chosen = world.task, world.population.select(variant, keys)
    sets = []
    for user in world.users:
        own = np.flatnonzero(chosen.user_ids == user)[: task.budget]
        seen = task.seen.rows[task.seen.users == user]
        shares = shares_of(chosen.importances[own], task.budget, variant)
        least = np.full(len(task.corpus), np.inf)
        for vector, share in zip(chosen.vectors[own], shares, strict=True):
            if share:
                order = np.argsort(-(task.corpus @ vector), kind="stable")
                order = order[~np.isin(order, seen)]
                least[order] = np.minimum(least[order], np.arange(len(order)) / share)
        order = np.argsort(least, kind="stable")[: shares.sum()]
        sets.append(set(order[least[order] < (np.inf if variant.refill else 1)].tolist()))
    return sets


def shares_of(importances: NDArray[np.float64], budget: int, variant: Variant) -> NDArray[np.int64]:
    if variant.shares == "equal" and not variant.refill:
        return np.full(len(importances), budget // len(importances))
    weights = importances if variant.shares == "importance" and importances.sum() > 0 else np.ones(len(importances))
    exact = (
        budget * weights / weights.sum()
        if variant.shares == "importance"
        else np.full(len(weights), budget / len(weights))
    )
    shares = np.floor(exact).astype(np.int64)
    shares[np.argsort(-(exact - shares), kind="stable")[: budget - shares.sum()]] += 1
    return shares


def judged(world: World, sets: list[list[set[int]]]) -> dict[str, NDArray]:
    found = {
        name: np.zeros((len(sets), world.task.users), dtype=np.int32) for name in ("relevant", "recalled", "set_size")
    }
    targets = world.task.targets
    for number, of_users in enumerate(sets):
        for user, rows in enumerate(of_users):
            found["set_size"][number, user] = len(rows)
        for user, row, vector in zip(targets.users, targets.corpus_rows, targets.vectors, strict=True):
            near = world.task.corpus[sorted(of_users[user])] @ vector
            found["recalled"][number, user] += int(row) in of_users[user]
            found["relevant"][number, user] += bool((near >= world.task.relevance_cosine).any())
    return found


def table_5(world: World) -> dict[str, NDArray]:
    candidates, found = candidates_of(world), {}
    together, kinds = Candidates.joined(list(candidates.values()))
    for model, variant in VARIANTS.items():
        chosen = [world.population.select(variant, keys) for keys in keys_of(variant)]
        owners = np.concatenate([some.user_ids for some in chosen])
        medoids = np.concatenate([some.medoid_rows for some in chosen])
        different, first, which = np.unique(
            np.stack([owners, medoids], axis=1), axis=0, return_index=True, return_inverse=True
        )
        embeddings = np.concatenate([some.vectors for some in chosen])[first]
        selections = np.zeros((len(chosen), len(different)), dtype=bool)
        selections[np.repeat(np.arange(len(chosen)), [len(some.user_ids) for some in chosen]), which] = True
        scores = best_cosines(together, world.task.corpus, different[:, 0], embeddings, selections)
        for number, (kind, own) in enumerate(candidates.items()):
            metrics = rank_metrics(own, scores[:, kinds == number], world.task.users)
            found[f"{model} {kind}"] = np.stack([metrics.r_precision, metrics.reciprocal_rank])
    return found


def candidates_of(world: World) -> dict[str, Candidates]:
    task, pins, nothing = world.task, np.arange(len(world.task.corpus)), np.empty(0, np.int64)
    kinds = {
        "impressions": (world.impressions, np.ones(len(pins))),
        "random": (Pairs(nothing, nothing), np.ones(len(pins))),
        "popular": (Pairs(nothing, nothing), world.popularity.astype(float)),
    }
    targets, per_action = task.targets, NEGATIVES_PER_ACTION
    found = {}
    for kind, (shown, pool) in kinds.items():
        negatives = draw_negatives(
            targets.users, targets.corpus_rows, shown, task.seen, pool, per_action, world.users, pins, KEYS[0]
        )
        found[kind] = Candidates.of(targets.users, targets.corpus_rows, negatives.pairs)
    return found


def table_5_peer(world: World) -> dict[str, NDArray]:
    candidates, found = candidates_of(world), {}
    for model, variant in VARIANTS.items():
        chosen = [world.population.select(variant, keys) for keys in keys_of(variant)]
        for kind, own in candidates.items():
            metrics = np.full((2, len(chosen), world.task.users), np.nan)
            for number, some in enumerate(chosen):
                for user in np.unique(own.users):
                    ranked = []
                    mine = np.flatnonzero(own.users == user)
                    for row, is_action in zip(own.rows[mine], own.is_action[mine], strict=True):
                        vectors = some.vectors[some.user_ids == user]
                        ranked.append((max(float(world.task.corpus[row] @ vector) for vector in vectors), is_action))
                    metrics[:, number, user] = metrics_of(sorted(ranked, reverse=True))
            found[f"{model} {kind}"] = metrics
    return found


def metrics_of(ranked: list[tuple[float, bool]]) -> tuple[float, float]:
    """R-precision and reciprocal rank: an action has each of the ranks of its equals, as likely as the others do."""
    scores, is_action = (np.array(column) for column in zip(*ranked, strict=True))
    ranks, k, hits, reciprocals = np.arange(1, len(ranked) + 1), is_action.sum(), 0.0, 0.0
    for equals in np.split(ranks, np.flatnonzero(scores[:-1] - scores[1:] > TIE) + 1):
        actions = is_action[equals - 1].sum()
        hits += actions * (equals <= k).mean()
        reciprocals += actions * (1 / equals).mean()
    return hits / k, reciprocals / k


def silent(done: int, total: int) -> None:
    pass


STAGES = {"Table 4": (table_4, table_4_peer), "Table 5": (table_5, table_5_peer), "Figure 7": (figure_7, figure_7_peer)}
PEERS = {peer for _, peer in STAGES.values()}

if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
