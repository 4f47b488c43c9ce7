"""The day in order: the online model and clustering anew at each moment, and how far they agree, against plain loops.

What `update_clusters` makes of a moment has tests of its own: here it is given what plain loops find, and called.
"""

import copy
import datetime
from collections import defaultdict

import numpy as np
import polars as pl
import pytest
from conftest import LAST
from oracle import CANNOT_SAY, Oracle, judged, targets_by_group
from sklearn.metrics import adjusted_rand_score
from world import failures, small_settings

from pinnersage_assets.lineage.evaluation.online_agreement import ONLINE_AGREES
from pinnersage_assets.model.online import StoredClusters, update_clusters
from pinnersage_assets.model.variants import ONLINE, RECLUSTERED

YESTERDAY = LAST - datetime.timedelta(days=1)
COUNTS = ["targets", "relevant", "recalled", "set_size"]


@pytest.fixture(scope="module")
def today(world):
    return Oracle(world, LAST)


@pytest.fixture(scope="module")
def yesterday(world):
    return Oracle(world, YESTERDAY)


def days(duration):
    return duration.total_seconds() / 86400


class Moment:
    """What is known of a user when it first acts on some targets."""

    def __init__(self, user, time, yesterday, today, most_actions=20):
        self.user, self.yesterday = user, yesterday
        own = [row for row in today.all_actions if row[1] == user and row[0] > YESTERDAY and row[4] < time]
        known = [row for row in own if row[2] in yesterday.pins]
        groups = {yesterday.group(row[2]) for row in known}
        self.seen = yesterday.seen(user) | {pin for pin in yesterday.corpus if yesterday.group(pin) in groups}
        self.news = [row for row in known if row[3] in ("repin", "click")]
        self.news.sort(key=lambda row: (time - row[4], row[2]))
        self.now = copy.copy(yesterday)
        for name in ("known_actions", "pins_of"):
            self.now.__dict__.pop(name, None)
        self.now.actions = [row for row in yesterday.actions if row[1] == user] + self.news
        self.now.midnight = time
        self.latest = self.news[:most_actions]

    def reclustered(self):
        """The medoids with their importance, and the cluster of each pin."""
        clusters = self.now.clusters(self.user)
        if clusters is CANNOT_SAY:
            return CANNOT_SAY
        medoids = [(self.now.medoid(self.user, own), self.now.importance(self.user, own)) for own in clusters]
        return medoids, {pin: number for number, own in enumerate(clusters) for pin in own}

    def online(self):
        before = self.yesterday.clusters(self.user)
        if before is CANNOT_SAY:
            return CANNOT_SAY
        before = list(before)
        medoids = [self.yesterday.medoid(self.user, own) for own in before]
        counts = self.yesterday.pins_of[self.user]
        pins = [row[2] for row in self.latest]
        vectors = self.yesterday.pins
        found = update_clusters(
            StoredClusters(
                np.array(medoids),
                np.array([sum(counts[pin] for pin in own) for own in before]),
                np.array([self.yesterday.importance(self.user, own) for own in before]),
            ),
            np.array([vectors[pin][1] for pin in medoids], dtype=np.float32),
            np.array(pins, dtype=np.int64),
            np.array([vectors[pin][1] for pin in pins], dtype=np.float32).reshape(-1, 64),
            np.array([days(self.now.midnight - row[4]) for row in self.latest]),
            days(self.now.midnight - self.yesterday.midnight),
            self.now.settings.clustering.alpha,
            self.now.settings.clustering.decay_per_day,
        )
        cluster_of = {pin: number for number, own in enumerate(before) for pin in own}
        cluster_of |= dict(zip(pins, found.labels.tolist(), strict=True))
        return list(zip(found.medoid_pin_ids.tolist(), found.importances.tolist(), strict=True)), cluster_of

    def recommended(self, medoids):
        drawn = self.yesterday.drawn({self.user: medoids}, self.user)
        return self.yesterday.refilled(drawn, self.seen)


def moments_of(user, yesterday, today, **options):
    """The user's moments in order, each with its targets."""
    targets = targets_by_group(user, yesterday, today)
    times = defaultdict(list)
    for group, target in targets.items():
        own = [r[4] for r in today.all_actions if r[1] == user and r[0] > YESTERDAY and today.group(r[2]) == group]
        times[min(own)].append(target)
    return [(Moment(user, time, yesterday, today, **options), times[time]) for time in sorted(times)]


@pytest.fixture(scope="module")
def moments(world, yesterday, today):
    users = sorted(set(world.partition("evaluation.retrieval_users", LAST)["user_id"]))
    return {user: moments_of(user, yesterday, today) for user in users}


@pytest.mark.parametrize("model", [ONLINE, RECLUSTERED])
def test_counts_are_sums_over_the_moments_of_the_day(world, moments, yesterday, model):
    rows = world.partition("evaluation.retrieval_users", LAST).filter(model=model, seed=3)
    found = {row["user_id"]: tuple(row[name] for name in COUNTS) for row in rows.to_dicts()}
    assert set(found) == set(moments)
    said = 0
    for user, own in moments.items():
        made = [getattr(moment, model)() for moment, _ in own]
        if CANNOT_SAY in made:
            continue
        sets = [moment.recommended(medoids) for (moment, _), (medoids, _) in zip(own, made, strict=True)]
        counts = [judged(some, targets, yesterday) for some, (_, targets) in zip(sets, own, strict=True)]
        if CANNOT_SAY in counts:
            continue
        said += 1
        assert found[user] == (*map(sum, zip(*counts, strict=True)), round(np.mean(list(map(len, sets)))))
    assert said > 0.9 * len(moments)
    assert sum(len(own) for own in moments.values()) > 1.5 * len(moments)
    assert sum(bool(moment.news) for own in moments.values() for moment, _ in own) > 20


def test_where_nothing_is_new_the_sets_are_those_of_the_day_before(world, moments):
    rows = world.partition("evaluation.retrieval_users", LAST)
    same = [
        user
        for user, own in moments.items()
        if all(not moment.news and moment.seen == moment.yesterday.seen(user) for moment, _ in own)
    ]
    assert len(same) >= 10
    columns = ["user_id", "seed", *COUNTS]
    of_model = {
        model: rows.filter(pl.col("user_id").is_in(same), model=model).select(columns).sort(columns)
        for model in ("pinnersage", ONLINE, RECLUSTERED)
    }
    assert of_model["pinnersage"].equals(of_model[ONLINE])
    assert of_model["pinnersage"].equals(of_model[RECLUSTERED])


def test_agreement_is_the_mean_over_moments_with_news(world, moments):
    rows = {row["user_id"]: row for row in world.partition("evaluation.online_agreement", LAST).to_dicts()}
    assert set(rows) == {user for user, own in moments.items() if any(moment.news for moment, _ in own)}
    said = 0
    for user, row in rows.items():
        own = [moment for moment, _ in moments[user] if moment.news]
        assert row["moments"] == len(own)
        assert row["actions"] == max(len(moment.news) for moment in own)
        made = [(moment.online(), moment.reclustered()) for moment in own]
        if any(CANNOT_SAY in pair for pair in made):
            continue
        said += 1
        rand, overlap = [], []
        for (medoids, cluster_of), (others, other_of) in made:
            pins = sorted(cluster_of)
            rand.append(adjusted_rand_score([cluster_of[pin] for pin in pins], [other_of[pin] for pin in pins]))
            one, other = ({pin for pin, _ in some} for some in (medoids, others))
            overlap.append(len(one & other) / len(one | other))
        assert row["adjusted_rand_index"] == pytest.approx(np.mean(rand), abs=1e-9)
        assert row["medoid_overlap"] == pytest.approx(np.mean(overlap), abs=1e-9)
    assert said > 0.9 * len(rows) > 10
    assert min(row["medoid_overlap"] for row in rows.values()) < 1


def test_the_online_model_takes_as_many_actions_as_the_setting_says(world, yesterday, today, moments, tmp_path):
    settings = small_settings(window={"days": 8}, evaluation={"users": 1000}, serving={"recent_actions": 1})
    copied = world.copy(tmp_path / "data", settings)
    assert failures(copied.run("daily", LAST, only=["evaluation.online_agreement"])) == {}
    rows = {row["user_id"]: row for row in copied.partition("evaluation.online_agreement", LAST).to_dicts()}
    fewer = 0
    for user, row in rows.items():
        own = [moment for moment, _ in moments_of(user, yesterday, today, most_actions=1) if moment.news]
        made = [(moment.online(), moment.reclustered()) for moment in own]
        if not any(CANNOT_SAY in pair for pair in made):
            overlap = []
            for (medoids, _), (others, _) in made:
                one, other = ({pin for pin, _ in some} for some in (medoids, others))
                overlap.append(len(one & other) / len(one | other))
            assert row["medoid_overlap"] == pytest.approx(np.mean(overlap), abs=1e-9)
            fewer += max(len(moment.news) for moment in own) > 1
    assert fewer > 5


def test_disagreement_is_a_warning_that_names_the_day(world, tmp_path):
    scope = {"first": LAST, "last": LAST}
    assert world.read(ONLINE_AGREES.failures, **scope).is_empty()
    assert not ONLINE_AGREES.blocking
    copied = world.copy(tmp_path / "data")
    copied.execute("UPDATE evaluation.online_agreement SET adjusted_rand_index = 0.8 WHERE dt = $day", day=LAST)
    [row] = copied.read(ONLINE_AGREES.failures, **scope).to_dicts()
    assert (row["dt"], row["adjusted_rand_index"]) == (LAST, pytest.approx(0.8))


def test_where_nobody_is_judged_nothing_is_compared(world, tmp_path):
    copied = world.copy(tmp_path / "data")
    copied.execute("DELETE FROM staging.actions WHERE dt = $day", day=LAST)
    assert failures(copied.run("daily", LAST, only=["evaluation.online_agreement"])) == {}
    assert copied.partition("evaluation.online_agreement", LAST).is_empty()
    assert copied.status("evaluation.online_agreement", LAST) == "passed"
