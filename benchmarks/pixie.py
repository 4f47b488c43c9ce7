"""Pixie's walks: steps and requests a second, and how long a request takes, on graphs of growing sizes.

Run with ``OPENBLAS_NUM_THREADS=1 python benchmarks/pixie.py``. A request has some query pins of two boards, walks
20,000 steps and gives 1,000 pins. The peers are what says the same without walking, scipy's sparse power iteration for
personalised PageRank until what changes is less than what walks leave to chance, and the paper's algorithm in plain
Python. Two processes map one file. Ratios are of seconds a request, to ours in one process; of two processes, of
requests a second. On a machine that does other work too, requests a second of processor time say more.

Early stopping is looked at by itself, with 20,000 steps, and with 100,000 and the paper's n_p = 2,000 and n_v = 4: the
share of the steps that it takes, and of the thousand pins that come first without it, how many still do. "Half of the
steps" is a request that is half as long: no rule of stopping can be much better, since what is missing is chance.

Simulated: pins have topics of 2,000 pins each, few of which most boards share; 85 % of a board are of its topic. The
feature is one of 20 languages, of which a topic has one.
"""

import functools
import math
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from pinnersage_assets.graph_files import map_graph, open_graph, write_graph
from pinnersage_assets.model.pin_board_graph import PinBoardGraph
from pinnersage_assets.model.pixie import PixieParameters, Requests, recommend
from pinnersage_assets.model.randomness import keyed_bits

EDGES = 10_000_000
SHARES = (0.01, 0.1, 1.0)
REQUESTS, FEW_PYTHON, FEW_POWER, FEW_STOPPED = 300, 10, 3, 20
QUERY_PINS = 5
PINS_PER_TOPIC, EDGES_PER_PIN, EDGES_PER_BOARD = 2_000, 10, 30
LANGUAGES = 20
OF_TOPIC = 0.85
PARAMETERS = PixieParameters(20_000, 0.5, 1_000, scaled=True, boosted=True)
# Of early stopping: N, n_p and n_v.
STOPPING = ((20_000, 2_000, 2), (100_000, 2_000, 4))
# What is left of the change of an iteration, in the sum over all pins.
CHANGE = 1e-3
COLUMNS = f"{'M steps/s':>10}{'requests/s':>12}{'of CPU':>10}{'p50 ms':>10}{'p99 ms':>10}"


def main(edges: int = EDGES) -> None:
    """Print a table a size of the graph."""
    with tempfile.TemporaryDirectory() as name:
        for share in SHARES:
            measure(max(1, math.ceil(share * edges)), Path(name) / "pins.graph")


def measure(edges: int, path: Path) -> None:
    """Print the table of one size."""
    pins, boards = simulated(edges)
    ids = np.unique(pins)
    started = time.perf_counter()
    graph = PinBoardGraph.of(pins, boards, ids, languages(ids))
    built = time.perf_counter()
    sha256 = write_graph(path, graph)
    written = time.perf_counter()
    graph = open_graph(path, sha256)
    opened = time.perf_counter()
    print(
        f"\n{graph.n_edges:,} edges, {graph.n_pins:,} pins, {graph.n_boards:,} boards, at most "
        f"{graph.largest_degree:,} boards a pin: {graph.bytes_per_direction:.2f} bytes an edge in one direction; "
        f"built in {built - started:.2f} s, written in {written - built:.2f} s, opened in {opened - written:.2f} s"
    )
    print(f"{'':24}{COLUMNS}   ratio to ours (load {os.getloadavg()[0]:.1f})")
    count = min(REQUESTS, edges)
    one = timed([functools.partial(ours, graph, n, PARAMETERS) for n in range(count)])
    print(line("ours, 1 process", one, one))
    biased = replace(PARAMETERS, bias=0.9)
    print(line("ours, biased", timed([functools.partial(ours, graph, n, biased) for n in range(count)]), one))
    print(line("ours, 2 processes", in_processes(2, path, count), one))
    peer = PythonWalk(graph)
    print(line("plain Python", timed([functools.partial(peer.answer, n) for n in range(min(count, FEW_PYTHON))]), one))
    peer = PowerIteration(graph)
    seconds = timed([functools.partial(peer.answer, n) for n in range(min(count, FEW_POWER))])
    print(line("scipy power iteration", seconds, one, walks=False), flush=True)
    for steps, pins_wanted, visits in STOPPING:
        print_stopping(graph, replace(PARAMETERS, steps=steps), pins_wanted, visits, min(count, FEW_STOPPED))


def simulated(edges: int, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pin and the board of each edge: heavy tails, and topics."""
    chance = np.random.default_rng(seed)
    n_boards = math.ceil(edges / EDGES_PER_BOARD)
    topics = math.ceil(edges / (EDGES_PER_PIN * PINS_PER_TOPIC))
    sizes = np.cumsum(np.exp(1.2 * chance.standard_normal(n_boards)))
    boards = np.searchsorted(sizes, sizes[-1] * chance.random(edges))
    topic = np.where(chance.random(edges) < OF_TOPIC, boards % topics, chance.integers(topics, size=edges))
    return topic * PINS_PER_TOPIC + (PINS_PER_TOPIC * chance.random(edges) ** 3).astype(np.int64), boards


def languages(pins: NDArray[np.int64]) -> NDArray[np.int64]:
    return pins // PINS_PER_TOPIC % LANGUAGES


def request(graph: PinBoardGraph, number: int) -> Requests:
    """Query pins of two boards, and the language of one of them; the same whenever it is asked."""
    chance = np.random.default_rng(number)
    boards = graph.pin_boards[chance.integers(graph.n_edges, size=2)][chance.integers(2, size=QUERY_PINS)]
    pins = graph.board_pins[chance.integers(graph.board_offsets[boards], graph.board_offsets[boards + 1])]
    ids = graph.pin_ids[np.unique(pins)]
    key, feature = keyed_bits("benchmark", np.array([number])), languages(ids[:1])
    return Requests(ids, np.ones(len(ids)), np.array([0, len(ids)]), key, feature)


@dataclass(frozen=True)
class Timing:
    """Seconds of each request, of all from the first to the last, and of the processor."""

    each: NDArray[np.float64]
    together: float
    processor: float


def timed(answers: list[Callable[[], object]]) -> Timing:
    """Time requests one after another, some of them once before."""
    for answer in answers[: max(1, len(answers) // 20)]:
        answer()
    moments, processor = [time.perf_counter()], time.process_time()
    for answer in answers:
        answer()
        moments.append(time.perf_counter())
    return Timing(np.diff(moments), moments[-1] - moments[0], time.process_time() - processor)


def ours(graph: PinBoardGraph, number: int, parameters: PixieParameters) -> NDArray[np.int64]:
    return recommend(graph, request(graph, number), parameters).pin_ids


def in_processes(processes: int, path: Path, count: int) -> Timing:
    """Each process answers so many requests at the same time."""
    context = multiprocessing.get_context("spawn")
    together, results = context.Barrier(processes), context.Queue()
    workers = [context.Process(target=serve, args=(path, count, together, results)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=300) for _ in workers]
    for worker in workers:
        worker.join()
    return Timing(
        np.concatenate([timing.each for timing in found]),
        max(timing.together for timing in found),
        sum(timing.processor for timing in found),
    )


def serve(path: Path, count: int, together: object, results: object) -> None:
    """Answer requests in a process of its own."""
    graph = map_graph(path)
    answers = [functools.partial(ours, graph, number, PARAMETERS) for number in range(count)]
    timed(answers[:20])
    together.wait(300)
    results.put(timed(answers))


class PythonWalk:
    """Algorithms 2 and 3 of the paper, step after step."""

    def __init__(self, graph: PinBoardGraph) -> None:
        self._graph = graph
        # Of these a number is taken out as fast as of a list.
        self._arrays = [
            memoryview(array) for array in (graph.pin_offsets, graph.pin_boards, graph.board_offsets, graph.board_pins)
        ]

    def answer(self, number: int) -> list[int]:
        """The rows of the pins."""
        graph, draw = self._graph, random.Random(number).random
        pin_offsets, pin_boards, board_offsets, board_pins = self._arrays
        rows = graph.pin_rows(request(graph, number).pin_ids).tolist()
        scores = Counter()
        for query, steps in zip(rows, steps_of(graph, rows).tolist(), strict=True):
            visits, pin = Counter(), query
            for _ in range(round(steps)):
                first = pin_offsets[pin]
                board = pin_boards[first + int(draw() * (pin_offsets[pin + 1] - first))]
                first = board_offsets[board]
                pin = board_pins[first + int(draw() * (board_offsets[board + 1] - first))]
                visits[pin] += 1
                if draw() < PARAMETERS.restart:
                    pin = query
            for pin, count in visits.items():
                scores[pin] += math.sqrt(count)
        for query in rows:
            del scores[query]
        return [pin for pin, _ in scores.most_common(PARAMETERS.answers)]


class PowerIteration:
    """Personalised PageRank x = P (α e + (1 - α) x), e being the query pins by their steps."""

    def __init__(self, graph: PinBoardGraph) -> None:
        self._graph = graph
        shape = graph.n_boards, graph.n_pins
        ones = np.ones(graph.n_edges)
        self._to_pins = sparse.csr_array((ones, graph.board_pins, graph.board_offsets), shape=shape).T.tocsr()
        self._to_boards = sparse.csr_array((ones, graph.pin_boards, graph.pin_offsets), shape=shape[::-1]).T.tocsr()
        self._pin_degrees, self._board_degrees = np.diff(graph.pin_offsets), np.diff(graph.board_offsets)

    def answer(self, number: int) -> NDArray[np.int64]:
        """The rows of the pins."""
        graph, restart = self._graph, PARAMETERS.restart
        rows = graph.pin_rows(request(graph, number).pin_ids)
        start = np.zeros(graph.n_pins)
        start[rows] = steps_of(graph, rows)
        start /= start.sum()
        x, change = start, math.inf
        while change > CHANGE:
            before = x
            from_pins = (restart * start + (1 - restart) * x) / self._pin_degrees
            x = self._to_pins @ ((self._to_boards @ from_pins) / self._board_degrees)
            change = np.abs(x - before).sum()
        x[rows] = 0
        most = min(PARAMETERS.answers, len(x))
        best = np.argpartition(x, len(x) - most)[-most:]
        return best[np.argsort(-x[best])]


def steps_of(graph: PinBoardGraph, rows: object) -> NDArray[np.float64]:
    """N_q, by itself."""
    degrees = graph.degrees(np.asarray(rows))
    scaled = degrees * (1 + math.log(graph.largest_degree) - np.log(degrees))
    return PARAMETERS.steps * scaled / scaled.sum()


def print_stopping(graph: PinBoardGraph, full: PixieParameters, pins: int, visits: int, count: int) -> None:
    """Print what early stopping takes and leaves."""
    stopped = replace(full, stop_pins=pins, stop_visits=visits)
    seconds, steps, overlaps = Counter(), 0, Counter()
    for number in range(count):
        asked, found = request(graph, number), {}
        for name, parameters in (("full", full), ("half", replace(full, steps=full.steps // 2)), ("stop", stopped)):
            started = time.process_time()
            found[name] = recommend(graph, asked, parameters)
            seconds[name] += time.process_time() - started
        steps += int(found["stop"].steps[0])
        for name in ("half", "stop"):
            common = len(np.intersect1d(found["full"].pin_ids, found[name].pin_ids))
            overlaps[name] += common / max(1, len(found["full"].pin_ids)) / count
    print(
        f"early stopping: N = {full.steps:,}, n_p = {pins:,}, n_v = {visits}: {steps / full.steps / count:6.1%} of the "
        f"steps, overlap {overlaps['stop']:.3f}, x {seconds['stop'] / seconds['full']:.2f} of the CPU; "
        f"half of the steps: overlap {overlaps['half']:.3f}, x {seconds['half'] / seconds['full']:.2f} of the CPU",
        flush=True,
    )


def line(name: str, timing: Timing, one: Timing, walks: bool = True) -> str:
    """One line of the table, with the ratio to one of our processes."""
    count = len(timing.each)
    rate = count / timing.together
    steps = f"{PARAMETERS.steps * rate / 1e6:10.2f}" if walks else f"{'':10}"
    middle, most = (1e3 * np.percentile(timing.each, share) for share in (50, 99))
    ratio = timing.each.mean() / one.each.mean()
    if count > len(one.each):
        ratio = rate * one.together / len(one.each)
    return f"{name:24}{steps}{rate:12.1f}{count / timing.processor:10.1f}{middle:10.2f}{most:10.2f}   x {ratio:.2f}"


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
