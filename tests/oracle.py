"""What the tables of a day should hold, from the definitions alone: plain loops over the landed rows.

Nothing here uses the package's own model or SQL, but for `keyed_uniform`, which says what chance is.
"""

import datetime
import math
from collections import Counter, defaultdict
from functools import cached_property

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from world import Day, World

from pinnersage_assets.model.randomness import keyed_uniform

CANNOT_SAY = None
_NEAR = 1e-5  # a cosine this near to a threshold may fall on either side of it


class Oracle:
    """What is true as of the end of a day."""

    def __init__(self, world: World, day: Day) -> None:
        self.settings, self.day = world.settings, day
        self.midnight = datetime.datetime.combine(day + datetime.timedelta(days=1), datetime.time())
        self.pins = {}  # of a pin: day, unit vector, width, height, text_fraction
        columns = "dt, pin_id, embedding, width, height, text_fraction"
        for dt, pin, vector, *quality in world.read(f"SELECT {columns} FROM raw.pins ORDER BY dt, pin_id").rows():
            if dt > day:
                break
            vector = np.array(vector)
            self.pins.setdefault(pin, (dt, vector / np.linalg.norm(vector), *quality))
        first = day - datetime.timedelta(days=self.settings.window.days - 1)
        actions = world.read("SELECT DISTINCT dt, user_id, pin_id, action, ts FROM raw.actions").sort("ts").rows()
        self.all_actions = [row for row in actions if first <= row[0] <= day]
        self.actions = [row for row in self.all_actions if row[3] in ("repin", "click")]

    @cached_property
    def known_actions(self) -> list[tuple]:
        return [row for row in self.actions if row[2] in self.pins]

    @cached_property
    def pins_of(self) -> dict[int, Counter]:
        """Of each user the known pins acted on, with the number of actions."""
        found = defaultdict(Counter)
        for _, user, pin, _, _ in self.known_actions:
            found[user][pin] += 1
        return found

    # --- Corpus

    @cached_property
    def repeats(self) -> dict[int, tuple[int, float]]:
        """Of each near-duplicate its representative and their cosine, from one loop over all pins."""
        representatives, vectors, found = [], np.empty((0, len(next(iter(self.pins.values()))[1]))), {}
        for pin, (_, vector, *_) in self.pins.items():  # in the order of (dt, pin_id)
            cosines = vectors @ vector
            if len(cosines) and cosines.max() >= self.settings.corpus.near_duplicate_cosine:
                found[pin] = (representatives[int(cosines.argmax())], float(cosines.max()))
            else:
                representatives.append(pin)
                vectors = np.vstack([vectors, vector])
        return found

    def group(self, pin: int) -> int:
        return self.repeats[pin][0] if pin in self.repeats else pin

    @cached_property
    def excluded(self) -> dict[int, str]:
        found, represented, wanted = {}, set(), self.settings.corpus
        engagement = Counter(self.group(row[2]) for row in self.known_actions)
        for pin, (_, _, width, height, text_fraction) in self.pins.items():
            if min(width, height) < wanted.minimal_side_pixels:
                found[pin] = "low_resolution"
            elif text_fraction > wanted.maximal_text_fraction:
                found[pin] = "mostly_text"
            elif engagement[self.group(pin)] < wanted.minimal_actions:
                found[pin] = "low_engagement"
            elif self.group(pin) in represented:
                found[pin] = "near_duplicate"
            else:
                represented.add(self.group(pin))
        return found

    @cached_property
    def corpus(self) -> list[int]:
        return sorted(set(self.pins) - set(self.excluded))

    @cached_property
    def corpus_vectors(self) -> np.ndarray:
        return np.array([self.pins[pin][1] for pin in self.corpus])

    # --- Users

    def clusters(self, user: int) -> set[frozenset[int]] | None:
        """The user's pins as a partition, or CANNOT_SAY where a merge is at α but for rounding."""
        counts = self.pins_of[user]
        copies = [pin for pin in counts for _ in range(counts[pin])]
        if len(copies) == 1:
            return {frozenset(copies)}
        merges = linkage(np.array([self.pins[pin][1] for pin in copies]), "ward")
        cut = math.sqrt(self.settings.clustering.alpha)
        if np.any(np.abs(merges[:, 2] - cut) < 1e-4):
            return CANNOT_SAY
        members = defaultdict(set)
        for pin, label in zip(copies, fcluster(merges, cut, "distance"), strict=True):
            members[label].add(pin)
        return {frozenset(cluster) for cluster in members.values()}

    def medoid(self, user: int, cluster: frozenset[int]) -> int:
        """Equation 2: the member with the least sum of squared distances to all; of equal ones the smallest id."""
        sums = {}
        for pin in sorted(cluster):
            sums[pin] = sum(
                self.pins_of[user][other] * np.sum((self.pins[pin][1] - self.pins[other][1]) ** 2) for other in cluster
            )
        least = min(sums.values())
        return next(pin for pin, total in sums.items() if total <= least * (1 + 1e-9))

    def importance(self, user: int, cluster: frozenset[int]) -> float:
        """Equation 3, T_now being the end of the day."""
        total = 0.0
        for _, who, pin, _, ts in self.actions:
            if who == user and pin in cluster:
                age = (self.midnight - ts).total_seconds() / 86400
                total += math.exp(-self.settings.clustering.decay_per_day * age)
        return total

    # --- Retrieval

    def seen(self, user: int) -> set[int]:
        """The corpus pins that a user must not be recommended: acted on in whatever way, or near-duplicates of such."""
        groups = {self.group(pin) for _, who, pin, _, _ in self.all_actions if who == user and pin in self.pins}
        return {pin for pin in self.corpus if self.group(pin) in groups}

    def drawn(self, medoids: dict[int, list[tuple[int, float]]], user: int) -> list[int]:
        """The medoids with the smallest -log(u) / importance: successive draws in proportion to importance."""
        waits = []
        for medoid, importance in medoids[user]:
            u = keyed_uniform("medoid", self.settings.seed, self.day.toordinal(), user, medoid)
            waits.append((-math.log(u) / importance, medoid))
        return [medoid for _, medoid in sorted(waits)[: self.settings.retrieval.sampled_medoids]]

    def nearest(self, query: np.ndarray, without: set[int], k: int) -> list[int]:
        order = np.argsort(-(self.corpus_vectors @ query), kind="stable")
        return [self.corpus[row] for row in order if self.corpus[row] not in without][:k]

    # --- Candidate sets of the evaluation's models

    @property
    def budget(self) -> int:
        settings = self.settings
        return max(1, min(settings.retrieval.budget, int(settings.evaluation.largest_share * len(self.corpus))))

    def last_pin(self, user: int) -> set[int]:
        latest = max(ts for _, who, _, _, ts in self.known_actions if who == user)
        pin = min(row[2] for row in self.known_actions if row[1] == user and row[4] == latest)
        return set(self.nearest(self.pins[pin][1], self.seen(user), self.budget))

    def decay_average(self, user: int) -> set[int]:
        average = 0.0
        for _, who, pin, _, ts in self.known_actions:
            if who == user:
                age = (self.midnight - ts).total_seconds() / 86400
                average = average + math.exp(-0.01 * age) * self.pins[pin][1]
        return set(self.nearest(average, self.seen(user), self.budget))

    def popular(self, user: int) -> set[int]:
        counts, seen = Counter(row[2] for row in self.known_actions), self.seen(user)
        order = sorted(self.corpus, key=lambda pin: (-counts[pin], pin))
        return set([pin for pin in order if pin not in seen][: self.budget])

    def pinnersage(self, user: int, medoids: dict[int, list[tuple[int, float]]]) -> set[int]:
        drawn = self.drawn(medoids, user)
        share = self.settings.retrieval.budget // len(drawn)
        return {pin for medoid in drawn for pin in self.nearest(self.pins[medoid][1], self.seen(user), share)}

    def refilled(self, drawn: list[int], seen: set[int]) -> set[int]:
        """As many pins as the budget, each medoid in turn bringing its next; of one turn the smallest ids first."""
        place = {}
        for medoid in drawn:
            for turn, pin in enumerate(self.nearest(self.pins[medoid][1], seen, len(self.corpus))):
                place[pin] = min(turn, place.get(pin, turn))
        return set(sorted(place, key=lambda pin: (place[pin], pin))[: self.budget])


def targets_of(user: int, yesterday: Oracle, today: Oracle) -> list[tuple[int | None, np.ndarray | None]]:
    """What a user did since yesterday, up to today, and had not seen."""
    return list(targets_by_group(user, yesterday, today).values())


def targets_by_group(user: int, yesterday: Oracle, today: Oracle) -> dict[int, tuple[int | None, np.ndarray | None]]:
    """Of each group that is a target the pin in yesterday's corpus, if any, and its vector."""
    before = {today.group(pin) for _, who, pin, _, _ in yesterday.all_actions if who == user}
    acted = defaultdict(list)
    for dt, who, pin, _, _ in today.actions:
        if who == user and dt > yesterday.day and today.group(pin) not in before:
            acted[today.group(pin)].append(pin)
    targets = {}
    for group, pins in acted.items():
        representative = [pin for pin in yesterday.corpus if today.group(pin) == group]
        if representative:
            targets[group] = representative[0], yesterday.pins[representative[0]][1]
        elif min(pins) in today.excluded or min(pins) not in today.pins:
            targets[group] = None, None
        else:
            targets[group] = None, today.pins[min(pins)][1]
    return targets


def judged(
    candidates: set[int], targets: list[tuple[int | None, np.ndarray | None]], yesterday: Oracle
) -> tuple[int, int, int] | None:
    """How many targets there are, are relevant and are recalled; CANNOT_SAY where a cosine is at the threshold."""
    relevant = recalled = 0
    for pin, vector in targets:
        recalled += pin in candidates
        if vector is None or not candidates:
            continue
        best = max(float(yesterday.pins[candidate][1] @ vector) for candidate in candidates)
        if abs(best - yesterday.settings.evaluation.relevance_cosine) < _NEAR:
            return CANNOT_SAY
        relevant += best >= yesterday.settings.evaluation.relevance_cosine
    return len(targets), relevant, recalled
