"""Evaluation beside Table 4: the protocol, Tables 1 and 5, Figures 2, 3 and 7 and intervals, against plain loops."""

import datetime
import importlib
from collections import defaultdict

import dagster as dg
import numpy as np
import polars as pl
import pytest
from conftest import LAST
from oracle import Oracle, targets_of
from world import START, World, failures, on, small_settings

from pinnersage_assets.lineage.evaluation.action_ages import _edges
from pinnersage_assets.model.randomness import keyed_uniform
from pinnersage_assets.model.variants import VARIANTS

# The package has the asset under the name of its module.
protocol_module = importlib.import_module("pinnersage_assets.lineage.evaluation.protocol")
YESTERDAY = LAST - datetime.timedelta(days=1)


@pytest.fixture(scope="module")
def today(world):
    return Oracle(world, LAST)


@pytest.fixture(scope="module")
def yesterday(world):
    return Oracle(world, YESTERDAY)


def unit(vector):
    return vector / np.linalg.norm(vector)


# --- The protocol


def share_above(vectors, cosine):
    near = [float(a @ b) >= cosine for n, a in enumerate(vectors) for b in vectors[:n]]
    return sum(near) / len(near)


def test_the_protocol_says_who_was_judged_on_what(world, yesterday, today):
    acted = {user for dt, user, *_ in today.actions if dt == LAST}
    new = {user: targets for user in acted if (targets := targets_of(user, yesterday, today))}
    known = [targets for user, targets in new.items() if user in yesterday.pins_of]
    [row] = world.partition("evaluation.protocol", LAST).to_dicts()
    assert row.pop("random_pairs_above") == pytest.approx(share_above(yesterday.corpus_vectors, 0.8), rel=1e-3)
    assert row == {
        "dt": LAST,
        "known_day": YESTERDAY,
        "horizon_days": 1,
        "users_who_acted": len(new),
        "cold_users": len(new) - len(known),
        "judged_users": len(known),
        "targets": sum(map(len, known)),
        "targets_without_vector": sum(vector is None for targets in known for _, vector in targets),
        "corpus_pins": len(yesterday.corpus),
        "budget": yesterday.budget,
        "relevance_cosine": 0.8,
        "fitted_before": None,
        "reason": None,
    }
    assert 0 < row["cold_users"] < row["judged_users"]
    assert row["targets_without_vector"] > 0


def test_the_protocol_is_of_the_sample_of_users(world, tmp_path):
    copy = world.copy(tmp_path / "data", small_settings(window={"days": 8}, evaluation={"users": 10}))
    assert failures(copy.run("daily", LAST, only=["evaluation.protocol", "evaluation.retrieval_users"])) == {}
    [row], [everybody] = (w.partition("evaluation.protocol", LAST).to_dicts() for w in (copy, world))
    judged = copy.partition("evaluation.retrieval_users", LAST).filter(model="last_pin")
    assert (row["judged_users"], row["targets"]) == (10, judged["targets"].sum())
    for name in ("users_who_acted", "cold_users", "corpus_pins", "budget", "random_pairs_above"):
        assert row[name] == everybody[name]


def test_pairs_are_of_a_sample_of_the_corpus(world, yesterday, tmp_path, monkeypatch):
    monkeypatch.setattr(protocol_module, "_SAMPLED_PINS", 60)
    copy = world.copy(tmp_path / "data", small_settings(window={"days": 8}, evaluation={"relevance_cosine": 0.3}))
    assert failures(copy.run("daily", LAST, only=["evaluation.protocol"])) == {}
    chance = keyed_uniform("random pairs", 3, LAST.toordinal(), np.array(yesterday.corpus))
    sample = yesterday.corpus_vectors[np.argsort(chance)[:60]]
    expected = share_above(sample, 0.3)
    assert copy.partition("evaluation.protocol", LAST)["random_pairs_above"].to_list() == pytest.approx([expected])
    assert 0 < expected < 1


@pytest.mark.parametrize(
    ("gone", "reason"),
    [
        ("dt = $day", f"nobody did anything new on {LAST}"),
        ("dt < $day", f"nothing was known, as of {YESTERDAY}, of the {{}} users who did something new on {LAST}"),
    ],
)
def test_the_protocol_says_why_nobody_was_judged(world, today, tmp_path, gone, reason):
    copy = world.copy(tmp_path / "data")
    copy.execute(f"DELETE FROM staging.actions WHERE {gone}", day=LAST)
    tables = ["evaluation.protocol", "evaluation.retrieval_users", "evaluation.variety"]
    assert failures(copy.run("daily", LAST, only=tables)) == {}
    [row], *empty = (copy.partition(table, LAST).to_dicts() for table in tables)
    assert empty == [[], []]
    # To whom nothing was known, everything is new.
    assert row["reason"] == reason.format(len({user for dt, user, *_ in today.actions if dt == LAST}))
    assert (row["judged_users"], row["targets"], row["targets_without_vector"]) == (0, 0, 0)
    assert row["users_who_acted"] == row["cold_users"]
    assert row["corpus_pins"] == world.partition("evaluation.protocol", LAST)["corpus_pins"].item()


def test_the_first_day_has_a_protocol_though_nothing_was_known_before_it(tmp_path):
    first = World.new(tmp_path / "data", small_settings())
    assert failures(first.run("raw_and_staging", START)) == {}
    corpus = ["corpus.near_duplicates", "corpus.excluded", "corpus.pins"]
    assert failures(first.run("daily", START, only=[*corpus, "evaluation.protocol"])) == {}
    [row] = first.partition("evaluation.protocol", START).to_dicts()
    assert (row["corpus_pins"], row["random_pairs_above"], row["judged_users"]) == (0, None, 0)
    assert row["cold_users"] == row["users_who_acted"] > 0
    assert row["reason"].startswith("nothing was known, as of 2025-12-31")


# --- Table 1


def test_the_next_action_is_predicted_from_strictly_earlier_ones(world, today):
    near = defaultdict(list)
    for user in {row[1] for row in today.known_actions if row[0] == LAST}:
        own = sorted((row[4], row[2]) for row in today.known_actions if row[1] == user)
        for ts, pin in own:
            past = [(then, other) for then, other in own if then < ts]
            if ts.date() != LAST or not past:
                continue
            wanted = today.pins[pin][1]
            latest = max(then for then, _ in past)
            last = min(other for then, other in past if then == latest)
            ages = [(ts - then).total_seconds() / 86400 for then, _ in past]
            mean = sum(np.exp(-0.01 * age) * today.pins[other][1] for age, (_, other) in zip(ages, past, strict=True))
            near["last_pin"].append(today.pins[last][1] @ wanted)
            near["decay_average"].append(unit(mean) @ wanted)
            near["oracle"].append(max(today.pins[other][1] @ wanted for _, other in past))
    rows = {row["model"]: row for row in world.partition("evaluation.next_action", LAST).to_dicts()}
    assert set(rows) == {"last_pin", "decay_average", "k_means_oracle", "oracle"}
    for model, cosines in near.items():
        assert rows[model]["actions"] == len(cosines)
        assert rows[model]["accuracy"] == pytest.approx(np.mean(np.array(cosines) >= 0.8), abs=0.01)
    assert rows["last_pin"]["accuracy"] <= rows["oracle"]["accuracy"]


# --- Table 5


@pytest.fixture(scope="module")
def ranked(world):
    return world.partition("evaluation.ranking_users", LAST)


def test_all_models_rank_for_the_users_that_they_retrieve_for(world, ranked, yesterday, today):
    judged = set(world.partition("evaluation.retrieval_users", LAST)["user_id"])
    assert set(ranked["model"]) == set(VARIANTS)
    for (_, negatives, seed), own in ranked.group_by("model", "negatives", "seed"):
        assert set(own["user_id"]) == judged
        assert negatives in ("impressions", "random", "popular")
        assert seed in (3, 4)
        for user, actions in own.select("user_id", "actions").rows():
            assert actions == len(targets_of(user, yesterday, today))
    assert ranked["r_precision"].is_between(0, 1).all()
    assert ranked["reciprocal_rank"].is_between(0, 1).all()


def test_ranks_are_those_of_a_loop_where_nothing_is_left_to_chance(world, yesterday, today, tmp_path):
    """With more negatives wanted than there are, they are all that was shown and all of the corpus."""
    settings = small_settings(window={"days": 8}, evaluation={"users": 1000, "negatives_per_action": 10_000})
    copy = world.copy(tmp_path / "data", settings)
    assert failures(copy.run("daily", LAST, only=["evaluation.ranking_users"])) == {}
    acted = {(row[1], row[2]) for row in today.all_actions if row[0] == LAST}
    shown = defaultdict(set)
    for user, pin in world.read("SELECT user_id, pin_id FROM raw.impressions WHERE dt = $day", day=LAST).rows():
        if pin in today.pins and (user, pin) not in acted:
            shown[user].add(pin)
    rows = copy.partition("evaluation.ranking_users", LAST).filter(model="last_pin")
    for user, negatives, *found in rows.select("user_id", "negatives", "r_precision", "reciprocal_rank").rows():
        if negatives == "popular":
            continue
        targets = targets_of(user, yesterday, today)
        wanted = {id(vector): vector for _, vector in targets if vector is not None}
        others = set(yesterday.corpus) | (shown[user] if negatives == "impressions" else set())
        # What has been seen is not ranked, nor what is wanted.
        others -= yesterday.seen(user) | {pin for pin, _ in targets}
        others -= {pin for pin in others if any(today.pins[pin][1] is vector for vector in wanted.values())}
        last = max((row[4], -row[2]) for row in yesterday.known_actions if row[1] == user)
        query = yesterday.pins[-last[1]][1]
        scores = [(float(today.pins[pin][1] @ query), 0) for pin in others]
        scores += [(float(vector @ query), 1) for vector in wanted.values()]
        ranks = [rank for rank, (_, is_action) in enumerate(sorted(scores, reverse=True), start=1) if is_action]
        # Targets without a vector come last, in any order.
        without = range(len(scores) + 1, len(scores) + 1 + len(targets) - len(wanted))
        reciprocal = (sum(1 / r for r in ranks) + sum(1 / r for r in without)) / len(targets)
        assert found[0] == pytest.approx(sum(r <= len(targets) for r in ranks) / len(targets), abs=0.01)
        assert found[1] == pytest.approx(reciprocal, rel=0.02)
    assert len(rows) > 100


def test_impressions_are_padded_where_they_are_too_few(world, ranked, yesterday, today):
    acted, shown = {(row[1], row[2]) for row in today.all_actions if row[0] == LAST}, defaultdict(set)
    for user, pin in world.read("SELECT user_id, pin_id FROM raw.impressions WHERE dt = $day", day=LAST).rows():
        if pin in today.pins and (user, pin) not in acted and pin not in yesterday.seen(user):
            shown[user].add(pin)
    padded = 0
    for row in ranked.filter(negatives="impressions", model="last_pin").to_dicts():
        targets = targets_of(row["user_id"], yesterday, today)
        wanted = 20 * len(targets)
        impressions = shown[row["user_id"]] - {pin for pin, _ in targets}
        assert row["drawn"] == wanted
        assert row["padded"] == max(0, wanted - len(impressions))
        padded += row["padded"]
    others = ranked.filter(pl.col("negatives") != "impressions")
    assert (others["padded"].null_count(), others["drawn"].null_count()) == (len(others), 0)
    shares = world.partition("evaluation.ranking", LAST)
    drawn = ranked.filter(negatives="impressions", model="last_pin")["drawn"].sum()
    assert set(shares.filter(negatives="impressions")["padded_share"]) == {padded / drawn}
    assert shares.filter(pl.col("negatives") != "impressions")["padded_share"].null_count() > 0
    event = world.instance.get_latest_materialization_event(dg.AssetKey(["evaluation", "ranking_users"]))
    share = event.asset_materialization.metadata["share of impressions padded at random"].value
    assert share == pytest.approx(padded / drawn)
    assert 0 < share < 1


def test_ranking_is_the_mean_over_users_and_seeds(world, ranked):
    for row in world.partition("evaluation.ranking", LAST).to_dicts():
        own = ranked.filter(model=row["model"], negatives=row["negatives"])
        assert row["users"] == own["user_id"].n_unique()
        assert row["r_precision"] == pytest.approx(own["r_precision"].mean())
        assert row["reciprocal_rank"] == pytest.approx(own["reciprocal_rank"].mean())
        weights = own["actions"] / own["actions"].sum()
        assert row["r_precision_over_actions"] == pytest.approx((own["r_precision"] * weights).sum())


# --- Figure 7


def test_diversity_is_that_of_the_definition(world, yesterday, today):
    rows = world.partition("evaluation.diversity", LAST).sort("embeddings")
    assert rows["embeddings"].to_list() == list(range(1, 11))
    of_actions = []
    for user in set(world.partition("evaluation.retrieval_users", LAST)["user_id"]):
        vectors = [vector for _, vector in targets_of(user, yesterday, today) if vector is not None]
        if len(vectors) > 1:
            pairs = [1 - a @ b for n, a in enumerate(vectors) for b in vectors[:n]]
            of_actions.append(np.mean(pairs))
    assert rows["action_diversity"][0] == pytest.approx(np.mean(of_actions), abs=1e-5)
    assert rows["diversity"][-1] > rows["diversity"][0]
    one = world.partition("evaluation.retrieval_users", LAST).filter(model="pinnersage_sample_1", seed=3)
    assert rows["recall"][0] == pytest.approx((one["recalled"] / one["targets"]).mean())
    assert rows["relevance"][0] == pytest.approx((one["relevant"] / one["targets"]).mean())


# --- Figures 2 and 3


def test_what_merged_medoids_retrieve_is_that_of_a_loop(world, today):
    rows = world.partition("evaluation.merged_vectors", LAST)
    medoids = world.partition("users.medoids", LAST).sort("user_id", "cluster")
    assert rows["user_id"].to_list() == sorted(today.pins_of)

    def nearness(user, query):
        own = np.array([today.pins[pin][1] for pin in today.pins_of[user]])
        retrieved = today.nearest(query, today.seen(user), 20)
        return np.mean([max(own @ today.pins[pin][1]) for pin in retrieved])

    for user, *found in rows.select("user_id", "medoid_cosine", "merged_nearness", "medoid_nearness").rows():
        best = medoids.filter(user_id=user).sort("importance", descending=True, maintain_order=True)[:3]
        if len(best) < 3:
            assert found == [None, None, None]
            continue
        a, b, c = (today.pins[pin][1] for pin in best["medoid_pin_id"])
        assert found[0] == pytest.approx((a @ b + a @ c + b @ c) / 3, abs=1e-5)
        # Where two pins are equally near, rounding may choose.
        assert found[1] == pytest.approx(nearness(user, a + b + c), abs=1e-3)
        assert found[2] == pytest.approx(np.mean([nearness(user, medoid) for medoid in (a, b, c)]), abs=1e-3)
    compared = rows.drop_nulls()
    assert 50 < len(compared) < len(rows)


def test_actions_are_compared_with_the_latest_by_their_age(world, today):
    cosines = defaultdict(list)
    for user in today.pins_of:
        own = sorted((row[4], -row[2]) for row in today.known_actions if row[1] == user)
        latest, pin = own[-1]
        for ts, other in own:
            if ts < latest:
                age = (today.midnight - ts).total_seconds() / 86400
                # Eight days: seven bins of one, and what is left of a week.
                cosines[min(int(age), 7)].append(today.pins[-other][1] @ today.pins[-pin][1])
    rows = world.partition("evaluation.action_ages", LAST).sort("days_from")
    assert rows.select("days_from", "days_to").rows() == [(n, n + 1) for n in range(8)]
    assert rows["actions"].to_list() == [len(cosines[n]) for n in range(8)]
    assert rows["cosine"].to_list() == pytest.approx([np.mean(cosines[n]) for n in range(8)], abs=1e-6)
    assert rows["actions"].sum() < len(today.known_actions)


def test_ages_are_in_days_and_then_in_weeks():
    assert _edges(90) == [0, 1, 2, 3, 4, 5, 6, 7, 14, 21, 28, 35, 42, 49, 56, 63, 70, 77, 84, 90]
    assert [_edges(days)[-3:] for days in (1, 2, 7, 8)] == [[0, 1], [0, 1, 2], [5, 6, 7], [6, 7, 8]]


def test_an_action_at_the_first_moment_of_the_window_is_counted(world, today, tmp_path):
    copy = world.copy(tmp_path / "data")
    first = LAST - datetime.timedelta(days=7)
    copy.execute("UPDATE staging.actions SET ts = dt WHERE dt = $day", day=first)
    assert failures(copy.run("daily", LAST, only=["evaluation.action_ages"])) == {}
    later = {user for dt, user, *_ in today.known_actions if dt > first}
    at_first = [row for row in today.known_actions if row[0] == first and row[1] in later]
    # The last bin is of the first day, of which all have the same time now.
    assert copy.partition("evaluation.action_ages", LAST)["actions"].to_list()[-1] == len(at_first) > 0


def test_figures_are_of_a_sample_of_users(world, tmp_path):
    copy = world.copy(tmp_path / "data", small_settings(window={"days": 8}, evaluation={"users": 30}))
    assert failures(copy.run("daily", LAST, only=["evaluation.merged_vectors", "evaluation.action_ages"])) == {}
    some, everybody = (w.partition("evaluation.merged_vectors", LAST) for w in (copy, world))
    chance = keyed_uniform("evaluated users", 3, LAST.toordinal(), everybody["user_id"].to_numpy())
    assert some["user_id"].to_list() == sorted(everybody["user_id"].to_numpy()[np.argsort(chance)[:30]])
    assert some.equals(everybody.filter(pl.col("user_id").is_in(some["user_id"].to_list())))
    actions = copy.partition("evaluation.action_ages", LAST)["actions"].sum()
    assert 0 < actions < world.partition("evaluation.action_ages", LAST)["actions"].sum()


def test_without_users_there_is_nothing_to_compare(world, tmp_path):
    copy = world.copy(tmp_path / "data")
    copy.execute(*(f"DELETE FROM {table}" for table in ("staging.actions", "users.clusters", "users.medoids")))
    assert failures(copy.run("daily", LAST, only=["evaluation.merged_vectors", "evaluation.action_ages"])) == {}
    assert copy.partition("evaluation.merged_vectors", LAST).is_empty()
    ages = copy.partition("evaluation.action_ages", LAST)
    assert ages["actions"].to_list() == [0] * 8
    assert ages["cosine"].to_list() == [None] * 8


# --- Intervals


def test_intervals_are_of_the_mean_differences_over_the_days_that_were_evaluated(world):
    rows = world.partition("evaluation.intervals", LAST)
    assert set(rows["metric"]) == {"relevance", "recall", "r_precision", "reciprocal_rank"}
    scores = defaultdict(lambda: defaultdict(list))
    for row in world.read("FROM evaluation.retrieval_users WHERE dt <= $day", day=LAST).to_dicts():
        scores[row["model"]][row["user_id"], row["dt"]].append(row["recalled"] / row["targets"])
    mean = {model: np.mean([np.mean(own) for own in users.values()]) for model, users in scores.items()}
    for row in rows.filter(metric="recall").to_dicts():
        assert row["difference"] == pytest.approx(mean[row["model"]] - mean[row["baseline"]])
        assert row["low"] <= row["difference"] <= row["high"]
        assert row["days"] == 2
    assert set(rows.filter(metric="recall", baseline="last_pin")["model"]) == set(scores) - {"last_pin"}


# --- Days on which there is nothing to judge


def test_a_day_without_actions_or_impressions_is_empty_and_no_failure(world, tmp_path):
    copy = world.copy(tmp_path / "data")
    copy.execute(
        "DELETE FROM staging.actions WHERE dt = $day", "DELETE FROM staging.impressions WHERE dt = $day", day=LAST
    )
    tables = [f"evaluation.{name}" for name in ("next_action", "retrieval_users", "retrieval", "ranking_users")]
    tables += [f"evaluation.{name}" for name in ("ranking", "diversity", "variety", "intervals")]
    assert failures(copy.run("daily", LAST, only=tables)) == {}
    for table in tables[:-1]:
        assert copy.partition(table, LAST).is_empty()
        assert copy.status(table, LAST) == "passed"
    # Yesterday's are there still.
    assert set(copy.partition("evaluation.intervals", LAST)["days"]) == {1}


def test_nothing_is_judged_that_embeddings_were_fitted_to(world, tmp_path):
    copy = world.copy(tmp_path / "data")
    tables = [
        f"evaluation.{name}" for name in ("next_action", "retrieval_users", "ranking_users", "calibration_trials")
    ]
    for before, is_judged in ((LAST, True), (LAST + datetime.timedelta(days=1), False)):
        (copy.landing / "vectors.toml").write_text(f"fitted_before = {before}\n")
        assert failures(copy.run("daily", LAST, only=tables)) == {}
        for table in tables:
            assert copy.partition(table, LAST).equals(world.partition(table, LAST)) is is_judged
            assert copy.partition(table, LAST).is_empty() is not is_judged


def test_without_impressions_actions_are_ranked_among_random_pins(world, tmp_path):
    copy = world.copy(tmp_path / "data")
    copy.execute("DELETE FROM staging.impressions WHERE dt = $day", day=LAST)
    assert failures(copy.run("daily", LAST, only=["evaluation.ranking_users"])) == {}
    rows = copy.partition("evaluation.ranking_users", LAST)
    assert set(rows["negatives"]) == {"impressions", "random", "popular"}
    for name in ("r_precision", "reciprocal_rank"):
        padded, random = (
            rows.filter(negatives=kind).sort("model", "seed", "user_id")[name] for kind in ("impressions", "random")
        )
        assert padded.equals(random)
    impressions = rows.filter(negatives="impressions")
    assert impressions["padded"].equals(impressions["drawn"], check_names=False)


def test_a_longer_horizon_judges_models_of_an_earlier_day_on_all_its_days(world, tmp_path):
    settings = small_settings(window={"days": 8}, evaluation={"users": 1000, "horizon_days": 2, "since": str(LAST)})
    copy, known = world.copy(tmp_path / "data", settings), LAST - datetime.timedelta(days=2)
    assert failures(copy.run("daily", known, only=["corpus.excluded", "corpus.pins"])) == {}
    users = ["users.clusters", "users.medoids", "retrieval.hnsw_index", "retrieval.medoid_neighbours"]
    assert failures(copy.run("daily", known, only=[*users, "retrieval.recommendations"])) == {}
    tables = ["evaluation.retrieval_users", "evaluation.ranking_users", "evaluation.intervals"]
    assert failures(copy.run("daily", LAST, only=tables)) == {}
    before, after = Oracle(copy, known), Oracle(copy, LAST)
    expected = {user: len(targets_of(user, before, after)) for user in before.pins_of}
    found = dict(copy.partition("evaluation.retrieval_users", LAST).select("user_id", "targets").rows())
    assert found == {user: count for user, count in expected.items() if count}
    assert len(found) > len(world.partition("evaluation.retrieval_users", LAST)["user_id"].unique())
    assert set(copy.partition("evaluation.intervals", LAST)["days"]) == {1}


# --- Which models are judged


def test_calibrated_models_are_those_chosen_before_the_known_day_and_settings_name_more(world, tmp_path):
    mine = {"clustering": "pins", "selection": "latest", "embeddings": 7}
    settings = small_settings(window={"days": 8}, evaluation={"users": 1000}, models={"last_7": mine})
    copy = world.copy(tmp_path / "data", settings)
    choices = {
        on(7): "('pinnersage', 0.4, 0.2, 9, 'importance', 'decayed_medoid')",  # older
        on(8): "('pinnersage', 1.2, 0.01, 3, 'equal', 'medoid'), ('last_pins', NULL, NULL, 20, NULL, NULL)",
        on(9): "('pinnersage', 0.5, 0.2, 9, 'importance', 'decayed_medoid')",  # too late for models of this day
    }
    copy.execute("DELETE FROM evaluation.calibration")
    for day, rows in choices.items():
        copy.execute(
            f"""
            INSERT INTO evaluation.calibration
                (dt, family, alpha, decay_per_day, embeddings, shares, representation, relevance, recall, score,
                 users, days, chosen)
            SELECT $day, *, 0, 0, 0, 1, 1, true FROM (VALUES {rows})
            """,
            day=day,
        )
    tables = ["evaluation.retrieval_users", "evaluation.ranking_users", "evaluation.intervals"]
    assert failures(copy.run("daily", LAST, only=tables)) == {}
    for table in tables[:2]:
        rows = copy.partition(table, LAST)
        assert set(rows["model"]) - set(world.partition(table, LAST)["model"]) == {
            "calibrated",
            "calibrated_last_pins",
            "last_7",
        }
        for model, same in (("calibrated", "pinnersage"), ("calibrated_last_pins", "last_20_pins")):
            its, others = (rows.filter(model=name).drop("model") for name in (model, same))
            order = [name for name in ("user_id", "seed", "negatives") if name in its.columns]
            assert its.sort(order).equals(others.sort(order))
    # They were judged on one of the two days, and are compared on that one.
    intervals = copy.partition("evaluation.intervals", LAST).filter(metric="recall", baseline="decay_average")
    days = dict(intervals.select("model", "days").rows())
    assert (days["calibrated"], days["last_7"], days["pinnersage"]) == (1, 1, 2)
    alone = copy.partition("evaluation.retrieval_users", LAST)
    mean = alone.with_columns(recall=alone["recalled"] / alone["targets"]).group_by("model").agg(pl.mean("recall"))
    mean = dict(mean.rows())
    difference = dict(intervals.select("model", "difference").rows())["calibrated"]
    assert difference == pytest.approx(mean["calibrated"] - mean["decay_average"])


def test_what_was_seen_can_be_kept(world, tmp_path):
    settings = small_settings(window={"days": 8}, evaluation={"users": 1000, "keep_seen": True})
    copy = world.copy(tmp_path / "data", settings)
    assert failures(copy.run("daily", LAST, only=["evaluation.retrieval_users"])) == {}
    targets = {}
    for row in copy.partition("evaluation.retrieval_users", LAST).to_dicts():
        targets[row["user_id"]] = row["targets"]
    before = dict(world.partition("evaluation.retrieval_users", LAST).select("user_id", "targets").rows())
    assert all(targets[user] >= count for user, count in before.items())
    assert sum(targets.values()) > sum(before.values())
