"""What users of the simulated source rely on: it repeats itself, and it is the world that it says it is."""

import datetime

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pinnersage_assets.settings import SimulationSettings
from pinnersage_assets.sources.simulated import SimulatedSource

START = datetime.date(2026, 1, 1)
DAYS = 40
SETTINGS = SimulationSettings(users=600, pins=5000, new_pins_per_day=50, topics=100, dimensions=64)


def on(index: int) -> datetime.date:
    return START + datetime.timedelta(days=index)


def source_of(seed: int = 0, **settings) -> SimulatedSource:
    return SimulatedSource(SETTINGS.model_copy(update=settings), seed, START)


@pytest.fixture(scope="module")
def source() -> SimulatedSource:
    return source_of()


@pytest.fixture(scope="module")
def pins(source) -> pl.DataFrame:
    return pl.concat([source.pins(on(index)).with_columns(day=index) for index in range(DAYS)])


@pytest.fixture(scope="module")
def actions(source) -> pl.DataFrame:
    return pl.concat([source.actions(on(index)).with_columns(day=index) for index in range(DAYS)])


@pytest.fixture(scope="module")
def vectors(pins) -> np.ndarray:
    return np.stack(pins["embedding"].to_list())


@pytest.fixture(scope="module")
def originals(source, pins) -> np.ndarray:
    return source.world.planted_original(pins["pin_id"])


# --- Days


@pytest.mark.parametrize("table", ["pins", "actions", "impressions", "board_pins"])
def test_a_day_alone_equals_the_day_after_others(source, table):
    for index in (0, 3, 1):
        getattr(source, table)(on(index))
    assert_frame_equal(getattr(source, table)(on(2)), getattr(source_of(), table)(on(2)))


@pytest.mark.parametrize("table", ["pins", "actions", "impressions", "board_pins"])
def test_another_seed_is_another_world(source, table):
    assert not getattr(source, table)(on(1)).equals(getattr(source_of(seed=1), table)(on(1)))


@pytest.mark.parametrize("table", ["pins", "actions", "impressions", "board_pins"])
def test_days_before_the_start_are_an_error(source, table):
    with pytest.raises(ValueError, match="2025-12-31 is before the first simulated day, 2026-01-01"):
        getattr(source, table)(on(-1))


def test_columns_have_the_types_of_the_raw_tables(source):
    actions = {
        "user_id": pl.Int64(),
        "pin_id": pl.Int64(),
        "action": pl.String(),
        "ts": pl.Datetime("us"),
        "file": pl.String(),
    }
    assert dict(source.actions(START).schema) == actions
    assert dict(source.impressions(START).schema) == {k: v for k, v in actions.items() if k != "action"}
    assert dict(source.board_pins(START).schema) == {"board_id": pl.Int64(), **source.impressions(START).schema}
    assert dict(source.pins(START).schema) == {
        "pin_id": pl.Int64(),
        "created_at": pl.Datetime("us"),
        "embedding": pl.List(pl.Float32()),
        "title": pl.String(),
        "category": pl.String(),
        "image_url": pl.String(),
        "width": pl.Int32(),
        "height": pl.Int32(),
        "text_fraction": pl.Float32(),
        "file": pl.String(),
    }


def test_times_lie_within_the_day(source, pins, actions):
    assert (pins["created_at"].dt.date() == START + pl.Series(pins["day"]) * datetime.timedelta(days=1)).all()
    assert (actions["ts"].dt.date() == START + pl.Series(actions["day"]) * datetime.timedelta(days=1)).all()
    assert (source.impressions(on(5))["ts"].dt.date() == on(5)).all()
    assert (source.board_pins(on(5))["ts"].dt.date() == on(5)).all()


# --- Pins


def test_pin_ids_are_unique_and_in_the_order_of_creation(pins):
    assert pins["pin_id"].to_list() == list(range(1, 5000 + 50 * (DAYS - 1) + 1))
    assert pins["created_at"].is_sorted()


def test_vectors_are_unit_vectors_that_can_be_had_alone(source, pins, vectors, originals):
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    a_repeat = pins["pin_id"].filter(originals != pins["pin_id"].to_numpy())[-1]
    for pin_id in (1, 4321, 5001, a_repeat):
        np.testing.assert_allclose(source.world.vectors([pin_id])[0], vectors[pin_id - 1], atol=1e-6)


@pytest.mark.parametrize("dimensions", [64, 256])
def test_pins_of_a_topic_are_relevant_to_each_other_and_no_others_are(dimensions):
    world, pin_ids = source_of(dimensions=dimensions).world, np.arange(1, 4001)
    vectors, topics, originals = (
        world.vectors(pin_ids),
        world.topics_of(pin_ids),
        world.planted_original(pin_ids),
    )
    cosines = vectors @ vectors.T
    same_topic = topics[:, None] == topics
    ordinary = cosines[same_topic & (originals[:, None] != originals)]
    assert 0.85 <= (ordinary >= 0.8).mean() <= 0.95
    assert ordinary.max() < 0.96
    assert cosines[~same_topic].max() < 0.8


def test_topics_of_a_category_are_related(source):
    world = source_of(dimensions=256).world
    cosines = world.topic_centres @ world.topic_centres.T
    topics = np.arange(SETTINGS.topics)
    same_category = (topics[:, None] - topics) % 20 == 0
    assert 0.4 < cosines[same_category & ~np.eye(len(topics), dtype=bool)].mean() < 0.5
    assert abs(cosines[~same_category].mean()) < 0.02


def test_near_duplicates_repeat_an_earlier_original(source, pins, vectors, originals):
    pin_ids = pins["pin_id"].to_numpy()
    repeats = originals != pin_ids
    assert repeats.mean() == pytest.approx(SETTINGS.near_duplicate_share, abs=0.01)
    assert (originals[repeats] < pin_ids[repeats]).all()
    assert not repeats[originals - 1].any()

    cosines = (vectors[repeats] * vectors[originals[repeats] - 1]).sum(axis=1)
    assert cosines.min() > 0.979
    assert cosines.max() < 0.9995

    of_originals = pins[originals[repeats] - 1]
    assert (pins.filter(repeats)["category"] == of_originals["category"]).all()
    assert (pins.filter(repeats)["title"] == of_originals["title"] + " (again)").all()


def test_low_quality_is_clearly_so(pins):
    sides = pins.select(pl.min_horizontal("width", "height")).to_series()
    low = (sides < 200) | (pins["text_fraction"] > 0.5)
    assert low.mean() == pytest.approx(SETTINGS.low_quality_share, abs=0.01)
    assert sides.filter(~low).min() >= 300
    assert pins["text_fraction"].filter(~low).max() < 0.4
    assert (sides < 200).sum() > 50
    assert (pins["text_fraction"] > 0.5).sum() > 50


def test_topic_sizes_have_a_long_tail(source, pins):
    sizes = np.sort(np.bincount(source.world.topics_of(pins["pin_id"])))[::-1]
    assert sizes[:10].sum() > 3 * 0.1 * sizes.sum()


# --- Users


def test_mean_activity_is_what_the_settings_ask_for(actions):
    assert len(actions) / DAYS / SETTINGS.users == pytest.approx(SETTINGS.actions_per_user_and_day, rel=0.15)


def test_some_users_are_heavy(source, actions):
    users = np.arange(1, SETTINGS.users + 1)
    heavy, interests = source.world.is_heavy(users), (source.world.interests(users, 0) >= 0).sum(axis=1)
    assert heavy.mean() == pytest.approx(0.15, abs=0.05)
    assert set(interests[~heavy]) == {3, 4, 5}
    assert interests[heavy].min() >= 12
    assert interests[heavy].max() <= 40

    counts = np.bincount(actions["user_id"], minlength=len(users) + 1)[1:]
    assert counts[heavy].mean() > 2 * counts[~heavy].mean()


def test_actions_fall_on_interests(source, actions):
    interested, wanted = _on_interest(source, actions), actions["action"] != "hide"
    assert 0.88 < interested[wanted].mean() < 0.97
    assert not interested[~wanted].any()
    assert (~wanted).mean() == pytest.approx(0.05, abs=0.01)


def test_short_lived_interests_end_and_lasting_ones_stay(source, actions):
    world, last = source.world, DAYS - 1
    slots = np.arange(40)
    first_days, last_days = actions.filter(pl.col("day") < 3), actions.filter(pl.col("day") > last - 3)
    shares = {}
    for name, frame in {"first": first_days, "last": last_days}.items():
        frame = frame.filter(pl.col("action") != "hide", ~pl.Series(world.is_heavy(frame["user_id"])))
        users, topics = frame["user_id"].to_numpy(), world.topics_of(frame["pin_id"])
        lasting = world.is_lasting(users[:, None], slots)
        of_first_day = world.interests(users, 1) == topics[:, None]
        shares[name] = (
            (of_first_day & lasting).any(axis=1).mean(),
            (of_first_day & ~lasting).any(axis=1).mean(),
        )
    assert shares["last"][0] == pytest.approx(shares["first"][0], rel=0.2)
    assert shares["last"][1] < 0.3 * shares["first"][1]


def test_interests_are_replaced_after_ten_to_thirty_days(source):
    users, slots = np.arange(1, SETTINGS.users + 1)[:, None], np.arange(3)
    topics = np.stack([source.world.interest_topics(users, slots, day) for day in range(200)])
    lasting = source.world.is_lasting(users, slots)
    changed = topics[1:] != topics[:-1]
    assert not changed[:, lasting].any()
    # A new topic may by chance be the old one, so an interest may outlive its epoch but never end before it.
    for changes in changed[:, ~lasting].T:
        assert np.diff(np.flatnonzero(changes)).min(initial=10) >= 10
    epochs = 199 / changed[:, ~lasting].sum(axis=0).mean()
    assert 15 < epochs < 25


def test_few_pins_get_many_actions(actions):
    counts = np.bincount(actions["pin_id"])
    most = np.sort(counts)[::-1][: SETTINGS.pins // 100]
    assert most.sum() > 7 * 0.01 * counts.sum()


def test_new_pins_get_more_than_their_share_of_actions(actions):
    last = actions.filter(pl.col("day") == DAYS - 1)
    n_pins, recent = 5000 + 50 * (DAYS - 1), 50 * 5
    assert (last["pin_id"] > n_pins - recent).mean() > 1.5 * recent / n_pins


def test_users_act_in_bursts_and_sometimes_twice_on_a_pin(source):
    actions = source.actions(on(2)).sort("user_id", "ts")
    pauses = actions.select(pl.col("ts").diff().over("user_id")).to_series().drop_nulls()
    assert (pauses < datetime.timedelta(minutes=2)).mean() > 0.7
    repins = actions.with_columns(
        before=pl.col("action").shift().over("user_id"), pin_before=pl.col("pin_id").shift().over("user_id")
    ).filter(pl.col("action") == "repin", pl.col("before") == "click")
    assert (repins["pin_id"] == repins["pin_before"]).mean() > 0.1


def test_rows_of_a_day_are_distinct(source):
    assert not source.actions(on(2)).is_duplicated().any()
    assert not source.impressions(on(2)).is_duplicated().any()
    assert not source.board_pins(on(2)).is_duplicated().any()


def test_nothing_is_seen_before_it_exists(source, pins, actions):
    seen = pl.concat(
        [
            actions.select("pin_id", "ts"),
            *(source.impressions(on(index)).select("pin_id", "ts") for index in (0, DAYS - 1)),
        ]
    ).join(pins.select("pin_id", "created_at"), on="pin_id", how="left")
    assert (seen["created_at"] < seen["ts"]).all()


# --- Impressions


def test_every_action_is_on_a_pin_that_was_shown_just_before(source):
    actions, shown = source.actions(on(3)), source.impressions(on(3))
    assert len(shown) == SETTINGS.impressions_per_action * len(actions)
    pairs = actions.join(shown, on=["user_id", "pin_id"], how="left", suffix="_shown", maintain_order="left")
    pause = pl.col("ts") - pl.col("ts_shown")
    before = pairs.filter(pause > datetime.timedelta(), pause <= datetime.timedelta(seconds=20))
    assert before.select(actions.columns).n_unique() == len(actions)


def test_impressions_mix_interests_with_other_pins(source):
    assert 0.5 < _on_interest(source, source.impressions(on(3)).with_columns(day=3)).mean() < 0.85


# --- Boards


@pytest.fixture(scope="module")
def saves(source) -> pl.DataFrame:
    """What was saved, with the topics of pins and of boards (-1: one that mixes topics)."""
    found = pl.concat([source.board_pins(on(index)).with_columns(day=index) for index in range(DAYS)])
    return found.with_columns(
        topic=pl.Series(source.world.topics_of(found["pin_id"].to_numpy())),
        board_topic=pl.Series(source.world.board_topics(found["board_id"].to_numpy())),
    )


def test_users_save_all_that_they_repin_some_of_what_they_click_and_nothing_else(saves, actions):
    kinds = saves.join(actions, on=["user_id", "pin_id", "ts"], how="left")["action"]
    assert kinds.null_count() == 0
    counts = dict(kinds.value_counts().iter_rows())
    assert counts["repin"] == actions.filter(action="repin").height
    assert counts.keys() == {"repin", "click"}
    assert 0.03 < counts["click"] / actions.filter(action="click").height < 0.07


def test_a_board_belongs_to_one_user_who_has_one_a_topic_and_one_that_mixes(saves):
    assert saves.group_by("board_id").agg(pl.col("user_id").n_unique())["user_id"].max() == 1
    topics = saves.unique("board_id").group_by("user_id", "board_topic").len()
    assert topics["len"].max() == 1
    assert (saves["board_id"] > 0).all()


def test_most_boards_are_of_a_topic_that_interests_their_user_and_some_mix(source, saves):
    of_topic, mixed = saves.filter(pl.col("board_topic") >= 0), saves.filter(board_topic=-1)
    assert 0.92 < (of_topic["topic"] == of_topic["board_topic"]).mean() < 0.98
    interests = source.world.interests(of_topic["user_id"].to_numpy(), 0)
    on_the_first_day = of_topic["day"].to_numpy() == 0
    wanted = (interests == of_topic["board_topic"].to_numpy()[:, None]).any(axis=1)
    assert wanted[on_the_first_day].all()
    assert 0.15 < len(mixed) / len(saves) < 0.35
    larger = mixed.group_by("board_id").agg(pl.len(), pl.col("topic").n_unique()).filter(pl.col("len") >= 10)
    assert len(larger) > 50
    assert larger["topic"].median() >= 4
    boards = saves.unique("board_id")
    assert 0.05 < (boards["board_topic"] == -1).mean() < 0.3


# --- Small worlds


@pytest.mark.parametrize(
    "settings",
    [
        {"users": 1, "pins": 1, "topics": 1, "new_pins_per_day": 0, "actions_per_user_and_day": 9.0},
        {"pins": 2, "topics": 300, "dimensions": 2},
        {"near_duplicate_share": 0.99, "low_quality_share": 0.99, "pins": 50},
        {"near_duplicate_share": 0.0, "low_quality_share": 0.0, "impressions_per_action": 1},
        {"actions_per_user_and_day": 0.0},
    ],
)
def test_tiny_and_extreme_worlds_work(settings):
    source = source_of(**settings)
    exist = 0
    for index in range(4):
        pins, actions, shown = (
            source.pins(on(index)),
            source.actions(on(index)),
            source.impressions(on(index)),
        )
        exist += len(pins)
        assert pins["pin_id"].max() in (exist, None)
        assert np.isfinite(pins["embedding"].explode().to_numpy()).all()
        assert actions["pin_id"].is_between(1, exist).all()
        assert shown["pin_id"].is_between(1, exist).all()
        saved = source.board_pins(on(index))
        assert saved["pin_id"].is_between(1, exist).all()
        assert saved.schema == source_of().board_pins(on(1)).schema
        assert pins.schema == source_of().pins(on(1)).schema
        assert actions.schema == source_of().actions(on(1)).schema
    if settings.get("topics") == 1:
        assert "hide" not in actions["action"]  # there is nothing outside of the one interest


def _on_interest(source: SimulatedSource, frame: pl.DataFrame) -> np.ndarray:
    """Whether each row's pin is of a topic that its user is interested in on that day."""
    topics, users = source.world.topics_of(frame["pin_id"]), frame["user_id"].to_numpy()
    on_interest = np.zeros(len(frame), dtype=bool)
    for index in frame["day"].unique():
        rows = (frame["day"] == index).to_numpy()
        on_interest[rows] = (source.world.interests(users[rows], index) == topics[rows, None]).any(axis=1)
    return on_interest
