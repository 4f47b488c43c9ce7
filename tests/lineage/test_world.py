"""A small world materialised through the real graph: what the tables of a day hold, against plain loops."""

import base64
import datetime
from collections import defaultdict

import dagster as dg
import duckdb
import numpy as np
import polars as pl
import pytest
from conftest import LAST, LATE_PIN, PLANTS, UNKNOWN_PIN
from oracle import CANNOT_SAY, Oracle, judged, targets_of
from world import differences, failures, on, small_settings

from pinnersage_assets.definitions import defs
from pinnersage_assets.lineage.evaluation.index_cost import _sampled_groups, _sampled_queries
from pinnersage_assets.lineage.retrieval import drawn_medoids
from pinnersage_assets.model.variants import BY_INDEX, CONTROLS, VARIANTS
from pinnersage_assets.warehouse.tables import all_tables

YESTERDAY = LAST - datetime.timedelta(days=1)
LEDGER = "operations.partitions"
ASSETS = [table for table in all_tables() if table != LEDGER]


@pytest.fixture(scope="module")
def today(world):
    return Oracle(world, LAST)


@pytest.fixture(scope="module")
def yesterday(world):
    return Oracle(world, YESTERDAY)


def medoids_of(world, day):
    """Of each user the medoids with their importance, from the table."""
    found = defaultdict(list)
    for user, medoid, importance in (
        world.partition("users.medoids", day).select("user_id", "medoid_pin_id", "importance").rows()
    ):
        found[user].append((medoid, importance))
    return found


# --- Every table


@pytest.mark.parametrize("table", ASSETS)
def test_every_table_has_its_partition_and_the_ledger_says_so(world, table):
    rows = world.read(f"SELECT count(*) AS n FROM {table} WHERE dt = $day", day=LAST).item()
    entry = world.read(
        f"SELECT rows, status, code_version FROM {LEDGER} WHERE table_name = $table AND dt = $day",
        table=table,
        day=LAST,
    ).to_dicts()
    assert rows > 0 or table in ("staging.rejected", "operations.stale_partitions")
    [spec] = [spec for spec in defs.resolve_all_asset_specs() if ".".join(spec.key.path) == table]
    assert entry == [{"rows": rows, "status": "passed", "code_version": spec.code_version}]


def test_no_partition_is_unchecked_and_no_scratch_file_is_left(world):
    assert world.read(f"SELECT DISTINCT status FROM {LEDGER}")["status"].to_list() == ["passed"]
    assert list((world.data / "warehouse" / "scratch").iterdir()) == []


def test_the_published_copy_holds_every_table_as_the_warehouse_does(world):
    published = world.data / "published" / "pinnersage.duckdb"
    assert published.stat().st_mode & 0o777 == 0o444
    with duckdb.connect(str(published), read_only=True) as connection:
        for table in ASSETS:
            found = connection.sql(f"SELECT count(*) FROM {table} WHERE dt = '{LAST}'").fetchall()[0][0]
            # The publication's own row is written after the copy was made.
            expected = 0 if table == "operations.publications" else world.partition(table, LAST).height
            assert found == expected, table


@pytest.mark.parametrize("table", ASSETS)
def test_every_asset_is_described(table):
    [spec] = [spec for spec in defs.resolve_all_asset_specs() if ".".join(spec.key.path) == table]
    schema, _ = table.split(".")
    assert spec.group_name == schema
    assert len(spec.description) > 20
    assert spec.kinds >= {"duckdb"}
    assert len(spec.kinds) >= 2
    assert spec.code_version
    assert spec.partitions_def is not None
    columns = spec.metadata["dagster/column_schema"].columns
    assert [column.name for column in columns] == [column.name for column in all_tables()[table].columns]
    assert all(column.description for column in columns)
    assert ("```sql" in spec.description) == (schema in ("staging", "marts"))


@pytest.mark.parametrize("table", ASSETS)
def test_a_materialisation_shows_rows_figures_and_chart(world, table):
    event = world.instance.get_latest_materialization_event(dg.AssetKey(table.split(".")))
    metadata = event.asset_materialization.metadata
    meta = all_tables()[table].meta
    rows = world.partition(table, LAST).height
    assert metadata["dagster/partition_row_count"].value == rows
    assert set(meta.get("figures", {})) <= set(metadata) or not rows
    assert ("chart" in metadata) == ("chart" in meta and rows > 0)
    if "chart" in metadata:
        picture = metadata["chart"].value.partition("base64,")[2].removesuffix(")")
        assert base64.b64decode(picture).startswith(b"\x89PNG")


# --- Corpus


def test_near_duplicates_are_those_of_one_loop_over_all_pins(world, today):
    rows = world.read("SELECT dt, pin_id, canonical_pin_id, cosine FROM corpus.near_duplicates ORDER BY pin_id")
    assert {pin: canonical for _, pin, canonical, _ in rows.rows()} == {p: c for p, (c, _) in today.repeats.items()}
    np.testing.assert_allclose(rows["cosine"], [today.repeats[pin][1] for pin in rows["pin_id"]], atol=1e-6)
    assert all(today.pins[pin][0] == dt for dt, pin, *_ in rows.rows())
    assert rows["dt"].n_unique() > 2  # not in the catalogue alone


def test_excluded_are_poor_pins_and_repeats_of_an_eligible_one(world, today):
    rows = world.partition("corpus.excluded", LAST)
    assert dict(rows.select("pin_id", "reason").rows()) == today.excluded
    assert set(rows["reason"]) == {"low_resolution", "mostly_text", "near_duplicate"}
    assert len({today.pins[pin][0] for pin in rows["pin_id"]}) > 2  # not of the catalogue alone


@pytest.mark.parametrize("day", [YESTERDAY, LAST])
def test_every_known_pin_is_in_the_corpus_or_excluded_and_none_is_both(world, day):
    known = world.read("SELECT pin_id FROM staging.pins WHERE dt <= $day ORDER BY pin_id", day=day)
    of_day = [world.partition(table, day)["pin_id"] for table in ("corpus.pins", "corpus.excluded")]
    assert pl.concat(of_day).sort().equals(known["pin_id"])


@pytest.mark.parametrize("day", [YESTERDAY, LAST])
def test_the_corpus_is_all_that_was_known_but_for_the_excluded(world, day):
    assert world.partition("corpus.pins", day)["pin_id"].to_list() == Oracle(world, day).corpus


# --- Users


def test_clusters_are_those_of_scipy(world, today):
    rows = world.partition("users.clusters", LAST)
    assert set(rows["user_id"]) == set(today.pins_of)
    judged_users = 0
    for (user,), own in rows.group_by("user_id"):
        assert dict(own.select("pin_id", "actions").rows()) == today.pins_of[user]
        expected = today.clusters(user)
        if expected is not CANNOT_SAY:
            judged_users += 1
            assert {frozenset(pins) for pins in own.group_by("cluster").agg("pin_id")["pin_id"]} == expected
        # Numbers from 0, in the order of first appearance.
        assert own.sort("pin_id")["cluster"].unique(maintain_order=True).to_list() == list(
            range(own["cluster"].n_unique())
        )
    assert judged_users > 0.9 * rows["user_id"].n_unique()
    assert rows["actions"].max() > 1
    assert rows.group_by("user_id").agg(pl.col("cluster").max())["cluster"].max() > 5


def test_last_ts_is_that_of_the_last_action(world, today):
    rows = world.partition("users.clusters", LAST)
    latest = {(user, pin): ts for _, user, pin, _, ts in today.known_actions}  # in the order of ts
    assert {(user, pin): ts for user, pin, ts in rows.select("user_id", "pin_id", "last_ts").rows()} == latest


def test_medoids_are_those_of_equation_2_and_importance_is_equation_3(world, today):
    members = defaultdict(set)
    for user, cluster, pin in world.partition("users.clusters", LAST).select("user_id", "cluster", "pin_id").rows():
        members[user, cluster].add(pin)
    rows = world.partition("users.medoids", LAST)
    assert set(rows.select("user_id", "cluster").rows()) == set(members)
    for user, cluster, medoid, importance, size in rows.select(
        "user_id", "cluster", "medoid_pin_id", "importance", "size"
    ).rows():
        pins = frozenset(members[user, cluster])
        assert medoid == today.medoid(user, pins)
        assert size == sum(today.pins_of[user][pin] for pin in pins)
        assert importance == pytest.approx(today.importance(user, pins), rel=1e-9)
    assert rows["size"].max() > 3


def test_hides_and_unknown_pins_are_counted_and_not_clustered(world, today):
    window = world.read("SELECT * FROM staging.actions WHERE dt BETWEEN $first AND $last", first=on(3), last=LAST)
    assert window.filter(pl.col("action") == "hide").height > 0
    assert UNKNOWN_PIN in window["pin_id"]
    clustered = world.partition("users.clusters", LAST)
    assert UNKNOWN_PIN not in clustered["pin_id"]
    assert clustered["actions"].sum() == len(today.known_actions)
    event = world.instance.get_latest_materialization_event(dg.AssetKey(["users", "clusters"]))
    unknown = event.asset_materialization.metadata["actions on unknown pins"].value
    assert unknown == len(today.actions) - len(today.known_actions) == 3


def test_a_pin_is_clustered_from_the_day_on_which_it_lands(world):
    for day, times in ((YESTERDAY, None), (LAST, 2)):
        own = world.partition("users.clusters", day).filter(user_id=PLANTS.late, pin_id=LATE_PIN)
        assert own["actions"].to_list() == ([times] if times else [])


# --- Retrieval


def test_medoids_are_drawn_by_importance_and_the_same_whoever_asks(world, today):
    medoids = medoids_of(world, LAST)
    drawn = drawn_medoids(world.warehouse, world.settings, LAST)
    assert set(drawn["user_id"]) == set(medoids)
    for (user,), own in drawn.group_by("user_id"):
        assert set(own["medoid_pin_id"]) == set(today.drawn(medoids, user))
        assert set(own["share"]) == {60 // len(own)}
    assert {user for user in medoids if len(medoids[user]) < 3}


def test_neighbours_are_deep_enough_and_the_true_ones(world, today):
    drawn = drawn_medoids(world.warehouse, world.settings, LAST)
    depth = {medoid: share + 10 for medoid, share in drawn.group_by("medoid_pin_id").agg(pl.max("share")).rows()}
    rows = world.partition("retrieval.medoid_neighbours", LAST)
    assert set(rows["medoid_pin_id"]) == set(depth)
    hits = []
    for medoid, pins, cosines in rows.select("medoid_pin_id", "pin_ids", "cosines").rows():
        assert len(set(pins)) == len(pins) == depth[medoid]
        expected = [float(today.pins[pin][1] @ today.pins[medoid][1]) for pin in pins]
        np.testing.assert_allclose(cosines, expected, atol=1e-6)
        assert cosines == sorted(cosines, reverse=True)
        hits.append(len(set(pins) & set(today.nearest(today.pins[medoid][1], set(), len(pins)))) / len(pins))
    # The corpus is small enough for exact search; where two are equally near, rounding may choose.
    assert np.mean(hits) > 0.999


def test_recommendations_are_the_unseen_neighbours_of_the_drawn_medoids(world, today):
    medoids = medoids_of(world, LAST)
    rows = world.partition("retrieval.recommendations", LAST)
    replaced = 0
    for user in medoids:
        seen, drawn = today.seen(user), today.drawn(medoids, user)
        own = rows.filter(user_id=user).sort("rank")
        assert set(own["pin_id"]) == today.pinnersage(user, medoids)
        assert own["rank"].to_list() == list(range(1, len(own) + 1))
        assert own.select("score", "pin_id").rows() == sorted(
            own.select("score", "pin_id").rows(), key=lambda row: (-row[0], row[1])
        )
        share = 60 // len(drawn)
        bring = {medoid: set(today.nearest(today.pins[medoid][1], seen, share)) for medoid in drawn}
        for pin, medoid, score in own.select("pin_id", "medoid_pin_id", "score").rows():
            cosines = {m: float(today.pins[m][1] @ today.pins[pin][1]) for m in drawn if pin in bring[m]}
            assert score == pytest.approx(cosines[medoid], abs=1e-6)
            assert score == pytest.approx(max(cosines.values()), abs=1e-6)
        replaced += any(set(today.nearest(today.pins[m][1], set(), share)) & seen for m in drawn)
        groups = [today.group(pin) for pin in own["pin_id"]]
        assert len(set(groups)) == len(groups)
        acted = {pin for _, who, pin, _, _ in today.all_actions if who == user}
        assert not set(groups) & {today.group(pin) for pin in acted}
    assert set(rows["user_id"]) == set(medoids)
    assert replaced > 10


# --- Evaluation


@pytest.fixture(scope="module")
def counts(world):
    """By user and model, of the first seed."""
    rows = world.partition("evaluation.retrieval_users", LAST).filter(seed=world.settings.seed)
    return {(row["user_id"], row["model"]): row for row in rows.to_dicts()}


def test_everybody_who_did_something_new_and_is_known_is_judged(counts, yesterday, today):
    acted = {user for dt, user, *_ in today.actions if dt == LAST}
    new = {user for user in acted if targets_of(user, yesterday, today)}
    assert {user for user, _ in counts} == new & set(yesterday.pins_of)
    assert {PLANTS.cold, PLANTS.cold_but_for_unknown} <= new - set(yesterday.pins_of)
    assert acted - new
    assert {model for _, model in counts} == {*VARIANTS, *CONTROLS}
    # Every model is asked about the same users and targets.
    assert len(counts) == len({user for user, _ in counts}) * len({model for _, model in counts})
    assert len({(user, row["targets"]) for (user, _), row in counts.items()}) == len({user for user, _ in counts})


@pytest.mark.parametrize(
    ("model", "definition"),
    [
        ("last_pin", "last_pin"),
        ("decay_average", "decay_average"),
        ("recommended", "pinnersage"),
        ("pinnersage_not_refilled", "pinnersage"),
    ],
)
def test_counts_are_those_of_the_definitions(world, counts, yesterday, today, model, definition):
    medoids = medoids_of(world, YESTERDAY)
    said, users = 0, {user for user, _ in counts}
    for user in users:
        row = counts[user, model]
        knows = (medoids,) if definition == "pinnersage" else ()
        candidates = getattr(yesterday, definition)(user, *knows)
        assert row["set_size"] == len(candidates)
        expected = judged(candidates, targets_of(user, yesterday, today), yesterday)
        if expected is not CANNOT_SAY:
            said += 1
            assert (row["targets"], row["relevant"], row["recalled"]) == expected
    assert said > 0.95 * len(users)


def test_recommended_is_judged_by_what_was_recommended(world, counts, yesterday, today, tmp_path):
    """Whatever the settings are by now; who was recommended nothing has an empty set."""
    copy = world.copy(tmp_path / "data", small_settings(window={"days": 8}, evaluation={"users": 1000}, seed=4))
    users = sorted({user for user, _ in counts})
    wanted = {user: [pin for pin, _ in targets_of(user, yesterday, today) if pin] for user in users}
    foreseen, none = [next(u for u in users if len(wanted[u]) >= n and u > 0) for n in (2, 1)]
    copy.execute(
        "DELETE FROM retrieval.recommendations WHERE dt = $day AND user_id IN ($foreseen, $none)",
        "INSERT INTO retrieval.recommendations BY NAME SELECT $day AS dt, $foreseen AS user_id, "
        "unnest($pins) AS pin_id, generate_subscripts($pins, 1) AS rank, 1 AS medoid_pin_id, 1 AS score",
        day=YESTERDAY,
        foreseen=foreseen,
        none=none,
        pins=wanted[foreseen],
    )
    assert failures(copy.run("daily", LAST, only=["evaluation.retrieval_users"])) == {}
    found = {
        row["user_id"]: row
        for row in copy.partition("evaluation.retrieval_users", LAST).filter(model="recommended").to_dicts()
    }
    assert found[foreseen]["recalled"] == found[foreseen]["set_size"] == len(wanted[foreseen])
    assert (found[none]["set_size"], found[none]["relevant"], found[none]["recalled"]) == (0, 0, 0)
    columns = ("targets", "relevant", "recalled", "set_size")
    for user in set(users) - {foreseen, none}:
        before = counts[user, "recommended"]
        assert [found[user][name] for name in columns] == [before[name] for name in columns]


def test_random_sets_are_as_large_as_the_budget_and_differ_by_user(counts, yesterday, today):
    own = {user: row for (user, model), row in counts.items() if model == "random"}
    # All that are refilled are as large.
    alike = [model for model in (*VARIANTS, BY_INDEX, "random", "popular") if model != "pinnersage_not_refilled"]
    assert {row["set_size"] for (_, model), row in counts.items() if model in alike} == {60}
    assert all(row["recalled"] <= row["relevant"] <= row["targets"] for row in own.values())
    assert all(row["targets"] == len(targets_of(user, yesterday, today)) for user, row in own.items())
    hits, wanted = (sum(row[name] for row in own.values()) for name in ("recalled", "targets"))
    assert 0 < hits < 4 * wanted * 60 / len(yesterday.corpus)


def test_the_planted_targets_are_of_every_kind(counts, yesterday, today):
    def targets(user):
        return [
            ("corpus" if pin else "vector only" if vector is not None else "miss")
            for pin, vector in targets_of(user, yesterday, today)
        ]

    assert "miss" in targets(PLANTS.excluded)
    assert "vector only" in targets(PLANTS.new)
    [repeat] = [
        pin
        for dt, user, pin, _, ts in today.actions
        if (dt, user, ts.hour, ts.minute, ts.second) == (LAST, PLANTS.repeat, 12, 0, 0)
    ]
    assert repeat in today.excluded
    assert today.repeats[repeat][0] in [pin for pin, _ in targets_of(PLANTS.repeat, yesterday, today)]
    # What was seen, as itself or as a near-duplicate, is no target; an unknown pin that was seen is none either.
    for user in (PLANTS.unknown, PLANTS.late, PLANTS.seen):
        before = {today.group(pin) for _, who, pin, _, _ in yesterday.all_actions if who == user}
        again = {today.group(row[2]) for row in today.actions if row[0] == LAST and row[1] == user} & before
        assert again
    assert (PLANTS.negative, "random") in counts


def test_retrieval_is_the_mean_over_users(world, counts):
    everything = world.partition("evaluation.retrieval_users", LAST).to_dicts()
    for row in world.partition("evaluation.retrieval", LAST).to_dicts():
        own = [count for count in everything if count["model"] == row["model"]]
        assert row["users"] == len({user for user, _ in counts})
        assert row["seeds"] == len(own) / row["users"]
        assert row["seeds"] == (
            2 if row["model"] in ("random", "popular", "pinnersage", "pinnersage_k_means") else row["seeds"]
        )
        wanted = sum(c["targets"] for c in own)
        assert row["relevance_over_actions"] == pytest.approx(sum(c["relevant"] for c in own) / wanted)
        assert row["recall_over_actions"] == pytest.approx(sum(c["recalled"] for c in own) / wanted)
        assert row["relevance"] == pytest.approx(np.mean([c["relevant"] / c["targets"] for c in own]))
        assert row["recall"] == pytest.approx(np.mean([c["recalled"] / c["targets"] for c in own]))
        assert row["set_size"] == pytest.approx(np.mean([c["set_size"] for c in own]))


def test_a_sample_of_users_has_the_counts_that_they_have_among_all(world, tmp_path):
    settings = small_settings(window={"days": 8}, evaluation={"users": 10})
    copy = world.copy(tmp_path / "data", settings)
    assert copy.run("daily", LAST, only=["evaluation.retrieval_users"]).success
    everybody, some = (w.partition("evaluation.retrieval_users", LAST) for w in (world, copy))
    assert some["user_id"].n_unique() == 10
    assert some.equals(everybody.filter(pl.col("user_id").is_in(some["user_id"].unique().to_list())))


# --- What searching costs


@pytest.fixture(scope="module")
def costs(world):
    return {row["technique"]: row for row in world.partition("evaluation.index_cost", LAST).to_dicts()}


def test_each_technique_is_compared_with_the_one_it_replaces(costs):
    for row in costs.values():
        assert row["relative_cost"] == pytest.approx(row["cost"] / costs[row["compared_with"]]["cost"])
    assert {row["technique"]: row["paper_relative_cost"] for row in costs.values() if row["paper_relative_cost"]} == {
        "HNSW": 0.4,
        "refined index": 0.5,
        "cached medoids": 0.25,
    }


def test_techniques_that_find_less_are_not_compared(costs):
    assert costs["LSH orthoplex"]["recall"] >= costs["HNSW"]["recall"] > 0.9
    assert costs["full index"]["recall"] >= costs["refined index"]["recall"] > 0.9


def test_the_cache_asks_once_for_each_medoid_and_centroids_are_asked_for_one_by_one(world, today, costs):
    medoids = medoids_of(world, LAST)
    drawn = [medoid for user in medoids for medoid in today.drawn(medoids, user)]
    assert costs["cluster centroids"]["queries"] == len(drawn)
    assert costs["cached medoids"]["queries"] == len(set(drawn)) < len(drawn)


def test_the_full_index_has_what_the_refined_one_leaves_out(today, costs):
    assert costs["full index"]["pins"] == len(today.pins)
    assert costs["refined index"]["pins"] == len(today.corpus)


def test_a_sample_of_pins_has_whole_groups_of_near_duplicates(world, today, tmp_path):
    copy = world.copy(tmp_path / "data", small_settings(window={"days": 8}, evaluation={"index_cost_pins": 300}))
    pins = _sampled_groups(copy.warehouse, copy.settings, LAST)
    assert 250 < len(pins) <= 300
    sampled = set(pins["pin_id"])
    groups = {today.group(pin) for pin in sampled}
    assert sampled == {pin for pin in today.pins if today.group(pin) in groups}
    assert set(pins.filter("recommendable")["pin_id"]) == sampled & set(today.corpus)
    assert copy.run("daily", LAST, only=["evaluation.index_cost"]).success
    sizes = copy.partition("evaluation.index_cost", LAST).select("technique", "pins").rows()
    assert ("full index", len(pins)) in sizes


def test_centroids_are_those_of_the_clusters_of_the_medoids(world, today):
    drawn = drawn_medoids(world.warehouse, world.settings, LAST)
    medoids, centroids = _sampled_queries(world.warehouse, world.settings, LAST, drawn)
    expected = set()
    members = world.partition("users.clusters", LAST)
    for user, cluster in drawn.select("user_id", "cluster").rows():
        own = members.filter(user_id=user, cluster=cluster)
        total = sum(n * today.pins[pin][1] for pin, n in own.select("pin_id", "actions").rows())
        expected.add(tuple(np.round(total / np.linalg.norm(total), 4)))
    found = {tuple(np.round(centroid.astype(float), 4)) for centroid in centroids}
    assert len(medoids) == len(centroids) == 100
    near = np.array(sorted(expected))
    assert all(np.abs(near - np.array(centroid)).max(axis=1).min() < 2e-4 for centroid in found)
    # Each centroid is that of its medoid's cluster: near to it, on the whole.
    assert np.einsum("qn,qn->q", medoids, centroids).min() > 0.5


# --- Again, and without the future


@pytest.mark.slow
def test_a_day_run_again_has_the_same_rows(world, tmp_path):
    copy = world.copy(tmp_path / "data")
    assert failures(copy.run("daily", LAST)) == {}
    assert differences(world.partitions(LAST), copy.partitions(LAST)) == []


FUTURE_CHANGED = [
    # Everybody does something else, on the pins that are the most like those of the past.
    "UPDATE raw.actions SET pin_id = 801 - pin_id WHERE dt > $day AND pin_id <= 800",
    "UPDATE staging.actions SET pin_id = 801 - pin_id WHERE dt > $day AND pin_id <= 800",
    "INSERT INTO staging.actions SELECT $day + 1, user_id, pin_id, 'repin', ts + INTERVAL 9 DAY FROM staging.actions",
    """
    UPDATE staging.pins SET embedding = (SELECT embedding FROM staging.pins WHERE pin_id = 1), width = 10
    WHERE dt > $day
    """,
    "DELETE FROM corpus.near_duplicates WHERE dt > $day",
    "INSERT INTO corpus.near_duplicates SELECT $day + 1, pin_id, 1, 0.99 FROM staging.pins WHERE dt > $day",
    "INSERT INTO corpus.excluded SELECT $day + 1, pin_id, 'mostly_text' FROM corpus.pins WHERE dt = $day",
    "UPDATE corpus.pins SET pin_id = pin_id + 7 WHERE dt > $day",
    "UPDATE users.clusters SET cluster = 0 WHERE dt > $day",
    "UPDATE users.medoids SET importance = 1, medoid_pin_id = 1 WHERE dt > $day",
    "DELETE FROM retrieval.medoid_neighbours WHERE dt > $day",
]
FUTURE_REMOVED = [f"DELETE FROM {table} WHERE dt > $day" for table in all_tables()]
# What can be changed is, and of all else there is nothing after the day: one run instead of two.
FUTURE_CHANGED_OR_REMOVED = [
    *FUTURE_CHANGED,
    *(
        removed
        for table, removed in zip(all_tables(), FUTURE_REMOVED, strict=True)
        if not any(table in statement for statement in FUTURE_CHANGED)
    ),
]


@pytest.mark.parametrize(
    "statements",
    [
        pytest.param(FUTURE_REMOVED, marks=pytest.mark.slow),
        pytest.param(FUTURE_CHANGED, marks=pytest.mark.slow),
        FUTURE_CHANGED_OR_REMOVED,
    ],
    ids=["removed", "changed", "changed or removed"],
)
def test_a_day_does_not_look_ahead(world, tmp_path, statements):
    copy = world.copy(tmp_path / "data")
    copy.execute(*statements, day=YESTERDAY)
    for table in ("actions", "impressions", "board_pins", "pins"):
        for file in (copy.landing / table / f"dt={LAST}").iterdir():
            file.unlink()
    # Nothing of the day itself is left to be read either.
    everything = [table for table in ASSETS if table != "operations.publications"]
    copy.execute(*(f"DELETE FROM {table} WHERE dt = $day" for table in everything), day=YESTERDAY)
    assert failures(copy.run("daily", YESTERDAY, only=everything)) == {}
    assert differences(world.partitions(YESTERDAY), copy.partitions(YESTERDAY)) in ([], [LEDGER])
