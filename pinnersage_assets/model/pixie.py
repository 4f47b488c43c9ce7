"""Pixie: random walks over pins and boards, that begin at pins of a user (Eksombatchai et al., 2018, section 3.1).

A step leads from a pin to one of its boards and on to a pin of that board. After a step the walk begins anew with
probability α, so a pin is visited in proportion to its personalised PageRank x = P (α e_q + (1 - α) x), P being a step.

The paper takes the steps of a pin one after another. Here they have places, one after another as there, and where a
walk begins is drawn first: then all walks of many requests make their first steps together, those that are longer
their second ones, and so on. What a step does is keyed by the request, the pin it began with, and the place: neither
the order of the work nor what else is in the batch matters.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pinnersage_assets.model.pin_board_graph import NO_FEATURE, PinBoardGraph
from pinnersage_assets.model.population import ranges
from pinnersage_assets.model.randomness import keyed_bits, stream_bits, streams_from

# Whether a request may stop is seen after each part of its steps. Of parts there are as many as are worth it: what a
# part costs besides its steps, to count visits and to end with few walks, is as much as some thousand steps.
_MOST_PARTS = 8
_STEPS_PER_PART = 5_000
# Steps of requests that are walked together: few passes over arrays that the processor's cache holds.
_STEPS_AT_ONCE = 2**16
# Not more requests, so that the number of a visit fits into 63 bits: 31 of pins, and 21 of query pins.
_REQUESTS_AT_ONCE = 2**10
# Boards whose entries in a table are written in the time of one search: 120 ns among 40,000 boards.
_BOARDS_PER_SEARCH = 200
# Random numbers of a step: whether it is the last of its walk, where it leads, and whether it goes where it fits.
_NUMBERS_PER_STEP = 3
_LAST, _WHERE, _FITTING = range(_NUMBERS_PER_STEP)
_HALF = np.uint64(32)
_LOW_BITS = 2**32 - 1
# Most pins of an answer, where all are wanted.
ALL_PINS = 2**31 - 1


@dataclass(frozen=True)
class PixieParameters:
    """How to walk. Without what has a default, it is the paper's basic walk."""

    steps: int
    """N: those of a request together."""
    restart: float
    """α: the probability that a walk ends with a step, so that walks are of 1/α steps; above 0, at most 1."""
    answers: int = ALL_PINS
    """The most pins of an answer."""
    scaled: bool = False
    """Whether steps are shared out by the degrees of query pins: see `shared_steps`."""
    boosted: bool = False
    """Whether pins that are visited from several query pins count more: V = (Σ √V_q)², instead of Σ V_q."""
    stop_pins: int = 0
    """n_p: a request stops once so many pins, query pins aside, have ``stop_visits`` visits; 0 never stops. That is
    looked at after every 5,000 steps, at least once and at most seven times."""
    stop_visits: int = 1
    """n_v."""
    bias: float = 0.0
    """The probability that a step goes to a pin of the request's feature, where the board has some; 1 is always."""

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("answers", 1), ("stop_pins", 0), ("stop_visits", 1)):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if not 0 < self.restart <= 1:
            raise ValueError(f"restart must be above 0 and at most 1, not {self.restart}")
        if not 0 <= self.bias <= 1:
            raise ValueError(f"bias must lie in 0 to 1, not {self.bias}")


@dataclass(frozen=True)
class Requests:
    """Requests one after another, r of them: request i owns the query pins offsets[i]:offsets[i + 1]."""

    pin_ids: NDArray[np.int64]
    """(n,) query pins, of a request each once; in any order, which does not matter."""
    weights: NDArray[np.float64]
    """(n,) w_q, finite and not negative; only the ratios matter. A pin of weight 0 takes no steps."""
    offsets: NDArray[np.int64]
    """(r + 1,) from 0 to n."""
    keys: NDArray[np.uint64]
    """(r,) what is random belongs to these, as of `keyed_bits`."""
    features: NDArray[np.int64]
    """(r,) what fits the user; `NO_FEATURE` is everything."""

    def __post_init__(self) -> None:
        n, r = len(self.pin_ids), len(self.keys)
        for name, shape, kinds in (
            ("pin_ids", (n,), "i"),
            ("weights", (n,), "f"),
            ("offsets", (r + 1,), "i"),
            ("keys", (r,), "u"),
            ("features", (r,), "i"),
        ):
            array = getattr(self, name)
            if array.shape != shape or array.dtype.kind not in kinds or array.dtype.itemsize != 8:
                raise ValueError(f"{name} must be {kinds}8 of shape {shape}, not {array.dtype} of {array.shape}")
        if (self.offsets[0], self.offsets[-1]) != (0, n) or (np.diff(self.offsets) < 0).any():
            raise ValueError(f"offsets must ascend from 0 to the {n} query pins")
        if not (np.isfinite(self.weights) & (self.weights >= 0)).all():
            raise ValueError("weights must be finite and not negative")
        order = np.lexsort((self.pin_ids, self.of_request))
        repeated = np.flatnonzero((np.diff(self.pin_ids[order]) == 0) & (np.diff(self.of_request[order]) == 0))
        if len(repeated):
            pin = order[repeated[0]]
            raise ValueError(f"pin {self.pin_ids[pin]} is twice in request {self.of_request[pin]}: add up its weights")

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def of_request(self) -> NDArray[np.int64]:
        """The request of each query pin, (n,) int64."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))


@dataclass(frozen=True)
class Answers:
    """The answers to r requests: request i has the pins offsets[i]:offsets[i + 1]."""

    pin_ids: NDArray[np.int64]
    """(m,) the most visited first, of equally visited ones that of the smallest id; never a query pin."""
    scores: NDArray[np.float32]
    """(m,) V: visits, boosted or not."""
    offsets: NDArray[np.int64]
    """(r + 1,)"""
    steps: NDArray[np.int64]
    """(r,) that were taken."""
    unknown: NDArray[np.int64]
    """(r,) query pins that have no edges in the graph."""
    reasons: list[str]
    """(r,) why an answer has no pins; empty where it has some."""


def recommend(graph: PinBoardGraph, requests: Requests, parameters: PixieParameters) -> Answers:
    """Walk from the query pins of each request, and give the pins that are visited most.

    Visits to the query pins themselves are left out. An answer depends on its request, the graph and the parameters
    alone. With a bound on steps, not on visits, every walk comes to an end.

    Args:
        graph: pins and boards.
        requests: where to begin. Query pins that are not in the graph are counted; the others share the steps.
        parameters: how to walk.
    """
    of_request, rows = requests.of_request, graph.pin_rows(requests.pin_ids)
    # A sum of square roots depends on its order in the last bit: here on that of ids.
    walking = np.flatnonzero((rows >= 0) & (requests.weights > 0))
    walking = walking[np.lexsort((rows[walking], of_request[walking]))]
    steps = shared_steps(graph, rows[walking], requests.weights[walking], of_request[walking], parameters)
    streams = keyed_bits("pixie", requests.keys[of_request[walking]], requests.pin_ids[walking])
    of_walking = np.searchsorted(of_request[walking], np.arange(len(requests) + 1))
    total = np.bincount(of_request[walking], steps, len(requests)).astype(np.int64)

    nothing = np.empty(0, np.int64), np.empty(0, np.float32)
    found, taken = [nothing] * len(requests), np.zeros(len(requests), np.int64)
    features = requests.features if parameters.bias else np.full(len(requests), NO_FEATURE)
    for some in _batches(features, total):
        counts = np.diff(of_walking)[some]
        own, of_some = ranges(of_walking[some], counts), np.repeat(np.arange(len(some)), counts)
        feature = int(features[some[0]])
        visits = _Visits(graph, of_some, rows[walking[own]], steps[own], streams[own], feature, parameters)
        # All query pins are left out, whether they walk or not.
        counts = np.diff(requests.offsets)[some]
        own, of_some = ranges(requests.offsets[some], counts), np.repeat(np.arange(len(some)), counts)
        visits.leave_out(of_some[rows[own] >= 0], rows[own[rows[own] >= 0]])
        visits.walk()
        taken[some] = visits.taken
        for request, (pins, scores) in zip(some, visits.most_visited(), strict=True):
            found[request] = graph.pin_ids[pins], scores

    unknown = np.bincount(of_request[rows < 0], minlength=len(requests))
    reasons = [
        "" if len(pins) else _reason(int(asked), int(absent), int(walked))
        for (pins, _), asked, absent, walked in zip(found, np.diff(requests.offsets), unknown, taken, strict=True)
    ]
    return Answers(
        pin_ids=np.concatenate([nothing[0], *(pins for pins, _ in found)]),
        scores=np.concatenate([nothing[1], *(scores for _, scores in found)]),
        offsets=np.append(0, np.cumsum([len(pins) for pins, _ in found], dtype=np.int64)),
        steps=taken,
        unknown=unknown,
        reasons=reasons,
    )


def shared_steps(
    graph: PinBoardGraph,
    pin_rows: NDArray[np.int64],
    weights: NDArray[np.float64],
    of_request: NDArray[np.int64],
    parameters: PixieParameters,
) -> NDArray[np.int64]:
    """How many steps each query pin takes: N_q = N w_q s_q / Σ w s, s_q = g (1 + ln G - ln g); at least one (eq. 1, 2).

    The pin's degree is g, the largest of all is G. The paper has C in place of 1 + ln G, and says that it is the
    largest degree, by which s_q would be all but proportional to g; with ln G a pin of that degree would get nothing.
    1 + ln G is the least that lets s_q grow with g up to G. And it has Σ s in place of Σ w s: where all weights are 1
    that is the same; otherwise these steps add up to N, but for rounding, whatever the weights' unit.

    Args:
        graph: pins and boards.
        pin_rows: (n,) query pins.
        weights: (n,) w_q, above 0.
        of_request: (n,) the request of each.
        parameters: N, and whether to scale; otherwise s_q is 1.

    Returns:
        (n,) int64. A request with more query pins than N takes more than N steps.
    """
    # Before they are multiplied and added up: so that any finite number will do.
    largest = np.zeros(int(of_request.max(initial=-1)) + 1)
    np.maximum.at(largest, of_request, weights)
    shares = weights / largest[of_request]
    if parameters.scaled:
        degrees = graph.degrees(pin_rows)
        shares = shares * degrees * (1 + math.log(max(graph.largest_degree, 1)) - np.log(degrees))
    shares = shares / np.bincount(of_request, shares)[of_request]
    return np.maximum(np.rint(parameters.steps * shares), 1).astype(np.int64)


def _batches(features: NDArray[np.int64], steps: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Requests that walk together, ascending: all that have steps, of one feature, and of so many steps in all."""
    order = np.argsort(features, kind="stable")
    order = order[steps[order] > 0]
    first, before = 0, 0
    for end, request in enumerate(order, start=1):
        before += int(steps[request])
        full = before >= _STEPS_AT_ONCE or end - first == _REQUESTS_AT_ONCE
        if full or end == len(order) or features[order[end]] != features[request]:
            yield order[first:end]
            first, before = end, 0


def _reason(asked: int, unknown: int, steps: int) -> str:
    if not asked:
        return "the request has no query pins"
    if unknown == asked:
        return f"none of the {asked} query pins has an edge in the graph"
    if not steps:
        return f"of {asked} query pins {unknown} have no edge in the graph, and the weights of the others are 0"
    return f"in {steps} steps no walk came to a pin that is not a query pin"


class _Visits:
    """The walks of some requests.

    A walker is a query pin of a request; its steps have places, from 0. A visit is one number: of its request, the
    pin's row, and the walker, each in bits of its own.
    """

    def __init__(
        self,
        graph: PinBoardGraph,
        of_request: NDArray[np.int64],
        rows: NDArray[np.int64],
        steps: NDArray[np.int64],
        streams: NDArray[np.uint64],
        feature: int,
        parameters: PixieParameters,
    ) -> None:
        """Begin.

        Args:
            graph: pins and boards.
            of_request: (walkers,) ascending from 0.
            rows: (walkers,) the pin of each.
            steps: (walkers,) how many each takes.
            streams: (walkers,) of its random numbers.
            feature: what fits the users.
            parameters: how to walk.
        """
        self._graph, self._parameters = graph, parameters
        self._of_request, self._n_requests = of_request, int(of_request[-1]) + 1
        self._pin_bits, self._walker_bits = graph.n_pins.bit_length(), len(rows).bit_length()
        self._rows, self._steps, self._streams = rows, steps, streams
        self._codes = (of_request << (self._pin_bits + self._walker_bits)) | np.arange(len(rows))
        # The first step of the walk that is under way, of each walker.
        self._begins = np.zeros_like(steps)
        self._runs = graph.runs_of(feature)
        self._biased = len(self._runs[0]) > 0
        self._run_table = _run_table(self._runs[0], graph.n_boards, int(steps.sum())) if self._biased else None
        self._visits: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
        self.taken = np.zeros(self._n_requests, dtype=np.int64)
        """The steps that each request took."""
        self._left_out = np.empty(0, np.int64)

    def leave_out(self, of_request: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        """Do not count visits to some pins of requests."""
        self._left_out = (of_request << self._pin_bits) | rows

    def walk(self) -> None:
        """Take the steps, and stop where enough pins have enough visits."""
        parts = 1
        if self._parameters.stop_pins:
            parts = min(max(self._parameters.steps // _STEPS_PER_PART, 2), _MOST_PARTS)
        goes_on = np.ones(self._n_requests, dtype=bool)
        for part in range(parts):
            if part:
                goes_on &= self._well_visited() < self._parameters.stop_pins
            walkers = np.flatnonzero(goes_on[self._of_request])
            if not len(walkers):
                return
            steps = self._steps[walkers]
            walkers, begins, lengths = self._walks(walkers, steps * part // parts, steps * (part + 1) // parts)
            self.taken += np.bincount(self._of_request[walkers], lengths, self._n_requests).astype(np.int64)
            # The longest first.
            order = np.argsort(-lengths)
            walkers, lengths = walkers[order], lengths[order]
            streams = streams_from(self._streams[walkers], begins[order] * _NUMBERS_PER_STEP)
            self._walk(streams, self._rows[walkers], self._codes[walkers], lengths)

    def _walks(
        self, walkers: NDArray[np.int64], firsts: NDArray[np.int64], ends: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Draw the walks that end with a step of firsts[i] to ends[i] - 1 of walkers[i]: walker, first step, length."""
        sizes = ends - firsts
        to_the_end = bool((ends == self._steps[walkers]).all())
        places, streams = ranges(firsts, sizes), np.repeat(self._streams[walkers], sizes)
        last = _with_probability(self._parameters.restart, stream_bits(streams, places * _NUMBERS_PER_STEP + _LAST))
        if to_the_end:
            last[np.cumsum(sizes) - 1] = True
        walkers, next_begins = np.repeat(walkers, sizes)[last], places[last] + 1
        begins = np.append(0, next_begins[:-1])[: len(walkers)]
        changes = np.diff(walkers, prepend=-1) != 0
        begins[changes] = self._begins[walkers[changes]]
        changes = np.append(changes[1:], True)[: len(walkers)]
        self._begins[walkers[changes]] = next_begins[changes]
        return walkers, begins, next_begins - begins

    def most_visited(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Of each request the rows of its answer and their scores."""
        visits = self._sorted_visits()
        firsts = _firsts(visits)
        counts = np.diff(firsts, append=len(visits)).astype(np.float64)
        pins = visits[firsts] >> self._walker_bits
        firsts = _firsts(pins)
        if self._parameters.boosted:
            scores = np.add.reduceat(np.sqrt(counts), firsts) ** 2
        else:
            scores = np.add.reduceat(counts, firsts)
        pins = pins[firsts]
        # A number a pin, that sorts by score and then by row. Bits of floating-point numbers above 0 sort as they do.
        bits = scores.astype(np.float32).view(np.int32).astype(np.int64)
        ranks = (bits << 32) | (_LOW_BITS - (pins & ((1 << self._pin_bits) - 1)))
        counted = self._counted(pins)
        pins, ranks = pins[counted], ranks[counted]
        offsets = np.searchsorted(pins, np.arange(self._n_requests + 1) << self._pin_bits)
        for first, end in itertools.pairwise(offsets.tolist()):
            own, most = ranks[first:end], self._parameters.answers
            if len(own) > most:
                own = np.partition(own, len(own) - most)[-most:]
            own = np.sort(own)[::-1]
            yield _LOW_BITS - (own & _LOW_BITS), (own >> 32).astype(np.int32).view(np.float32)

    def _walk(
        self,
        streams: NDArray[np.uint64],
        pins: NDArray[np.int64],
        codes: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> None:
        """Take all steps of walks, the longest first.

        Args:
            streams: (walks,) of random numbers, from the first step on.
            pins: (walks,) where they begin.
            codes: (walks,) a visit's number, but for the pin.
            lengths: (walks,) how many steps they take.
        """
        graph = self._graph
        for step, longer in enumerate(_longer(lengths)):
            streams, pins, codes = streams[:longer], pins[:longer], codes[:longer]
            numbers = stream_bits(streams, step * _NUMBERS_PER_STEP + _WHERE)
            first = graph.pin_offsets.take(pins, mode="clip")
            degree = graph.pin_offsets.take(pins + 1, mode="clip") - first
            boards = graph.pin_boards.take(first + _drawn(degree, numbers >> _HALF), mode="clip").astype(np.int64)
            first = graph.board_offsets.take(boards, mode="clip")
            degree = graph.board_offsets.take(boards + 1, mode="clip") - first
            if self._biased:
                self._keep_to_fitting(boards, streams_from(streams, step * _NUMBERS_PER_STEP), first, degree)
            numbers &= np.uint64(_LOW_BITS)
            pins = graph.board_pins.take(first + _drawn(degree, numbers), mode="clip").astype(np.int64)
            self._visits.append((pins << self._walker_bits) | codes)

    def _keep_to_fitting(
        self,
        boards: NDArray[np.int64],
        streams: NDArray[np.uint64],
        first: NDArray[np.int64],
        degree: NDArray[np.int64],
    ) -> None:
        """Narrow the ranges of boards, in place, to the pins that fit, where that is drawn and there are some."""
        run_boards, run_starts, run_lengths = self._runs
        if self._run_table is None:
            # In one type: otherwise all of the other would be made it first.
            runs = np.minimum(np.searchsorted(run_boards, boards.astype(np.int32)), len(run_boards) - 1)
            fits = run_boards[runs] == boards
        else:
            runs = self._run_table.take(boards, mode="clip")
            fits = runs >= 0
        if self._parameters.bias < 1:
            fits &= _with_probability(self._parameters.bias, stream_bits(streams, _FITTING))
        fitting = np.flatnonzero(fits)
        runs = runs[fitting]
        first[fitting] += run_starts[runs]
        degree[fitting] = run_lengths[runs]

    def _well_visited(self) -> NDArray[np.int64]:
        """Of each request, the number of pins with ``stop_visits`` visits."""
        pins = self._sorted_visits() >> self._walker_bits
        firsts = _firsts(pins)
        well = pins[firsts[np.diff(firsts, append=len(pins)) >= self._parameters.stop_visits]]
        return np.bincount(well[self._counted(well)] >> self._pin_bits, minlength=self._n_requests)

    def _sorted_visits(self) -> NDArray[np.int64]:
        """All visits so far, ascending: by request, then by pin, then by walker."""
        self._visits = [np.sort(np.concatenate(self._visits))]
        return self._visits[0]

    def _counted(self, pins: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Of pins of requests, ascending and each once, which are not left out."""
        counted = np.ones(len(pins), dtype=bool)
        if len(pins):
            places = np.minimum(np.searchsorted(pins, self._left_out), len(pins) - 1)
            counted[places[pins[places] == self._left_out]] = False
        return counted


def _with_probability(probability: float, bits: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Of each random number, whether it says yes."""
    return bits < np.uint64(probability * 2.0**64) if probability < 1 else np.ones(len(bits), dtype=bool)


def _drawn(sizes: NDArray[np.int64], bits: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Of each size one of the numbers below it, by 32 random bits; one is drawn too often by size / 2^32 at most."""
    return (bits.view(np.int64) * sizes) >> 32


def _longer(lengths: NDArray[np.int64]) -> list[int]:
    """How many of walks, the longest first, take a first step, a second one, and so on."""
    if not len(lengths):
        return []
    return np.searchsorted(-lengths, -np.arange(int(lengths[0])), side="left").tolist()


def _firsts(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each of ascending numbers stands first."""
    return np.flatnonzero(np.append(True, values[1:] != values[:-1])[: len(values)])


def _run_table(run_boards: NDArray[np.int32], n_boards: int, n_steps: int) -> NDArray[np.int32] | None:
    """The run of each board, -1 of those that have none; None where searching takes less time than making a table."""
    if n_boards > _BOARDS_PER_SEARCH * n_steps:
        return None
    table = np.full(n_boards, -1, dtype=np.int32)
    table[run_boards] = np.arange(len(run_boards))
    return table
