"""The default source: a simulated day of pins, actions, impressions and boards, for a machine without data.

What belongs here: what happens on a day. What the pins and users are is in ``simulated_world``; where the
frames go is the caller's business.

Every day is generated alone, from the settings, the seed and the dates; nothing is carried over.
"""

import datetime
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pinnersage_assets.settings import SimulationSettings
from pinnersage_assets.sources.simulated_world import CATEGORIES, SimulatedWorld

SECOND = 1_000_000  # in microseconds, the unit of all times here
HOUR = 3600 * SECOND

# A day's pins come in overnight and sessions start later, so that no pin is seen before it exists. The last
# sessions start two hours before midnight, so that they end on the day.
UPLOADS_END = 4 * HOUR
SESSION_STARTS = (5 * HOUR, 22 * HOUR)
EVENING_PEAK = (2.5, 1.5)  # of a Beta distribution over the hours of session starts
SECONDS_BETWEEN_ACTIONS = (5, 115)
ACTIONS_PER_SESSION = 3.0
TWO_INTERESTS_SHARE = 0.4  # of the sessions
WEEKDAY_ACTIVITY = (0.94, 0.94, 0.94, 0.94, 0.94, 1.15, 1.15)  # Monday first; the mean is 1

ACTIONS = ("repin", "click", "hide")
REPIN, CLICK, HIDE = range(3)
ACTION_SHARES = (0.45, 0.50, 0.05)
OFF_INTEREST_SHARE = 0.10  # of the actions; half of it on popular pins, half on any
REPIN_AFTER_CLICK_SHARE = 0.3  # of the repins that directly follow a click
HIDE_CANDIDATES = 16

RECENT_BOOST, RECENT_DAYS = 4.0, 5.0  # a pin of today draws 1 + 4 times what it will draw later
SECONDS_BEFORE_ACTION = (1, 20)  # when the action's own pin was shown
SHOWN_WITHIN_SECONDS = 60
SHOWN_SHARES = (0.6, 0.2, 0.2)  # relevant, popular, any pins among those shown beside the action's own

SAVED_CLICKS_SHARE = 0.05  # of the clicks; all repins are saved
MISFILED_SHARE = 0.05  # of the saves: on the board of another of the user's interests

# Raw rows say which landing file they came from; these came from none.
_NO_FILE = pl.lit(None, pl.String).alias("file")

_ACTIONS_STREAM, _IMPRESSIONS_STREAM, _BOARD_PINS_STREAM = range(3)


@dataclass(frozen=True)
class SimulatedSource:
    """Raw data by the day; the same settings, seed and dates give the same frames.

    ``world`` knows the truth behind the data: planted repeats, topics and interests.
    """

    settings: SimulationSettings
    seed: int
    start_date: datetime.date

    @cached_property
    def world(self) -> SimulatedWorld:
        """Pins and users, day 0 being the start date."""
        return SimulatedWorld(self.settings, self.seed)

    def pins(self, day: datetime.date) -> pl.DataFrame:
        """Pins that appear on a day: on the start date the catalogue.

        Returns:
            pin_id, created_at, embedding (unit vectors), title, category, image_url (null), width and height
            (pixels), text_fraction (0 to 1) and file (null), in the order of pin_id and created_at.

        Raises:
            ValueError: the day is before the start date.
        """
        world, pin_ids = self.world, self.world.pin_ids(self._day_index(day))
        originals, topics = world.planted_original(pin_ids), world.topics_of(pin_ids)
        widths, heights = world.sizes(pin_ids)
        vectors = pl.Series(world.vectors(pin_ids), dtype=pl.Array(pl.Float32, self.settings.dimensions))
        category = pl.Series(CATEGORIES).gather(topics % len(CATEGORIES))
        title = pl.format(
            "{} idea {}: {}{}",
            category.str.head(1).str.to_uppercase() + category.str.slice(1),
            pl.Series(originals),
            pl.Series(world.topic_names).gather(topics),
            pl.Series(["", " (again)"]).gather((originals != pin_ids).astype(int)),
        )
        return pl.DataFrame(
            {
                "pin_id": pin_ids,
                # Evenly over the night, in the order of ids, so that an earlier id is an earlier pin.
                "created_at": _timestamps(day, np.linspace(0, UPLOADS_END, len(pin_ids), endpoint=False)),
                "embedding": vectors.arr.to_list(),
                "title": pl.select(title).to_series(),
                "category": category,
                "image_url": pl.Series([None] * len(pin_ids), dtype=pl.String),
                "width": widths,
                "height": heights,
                "text_fraction": world.text_fractions(pin_ids),
            }
        ).with_columns(_NO_FILE)

    def actions(self, day: datetime.date) -> pl.DataFrame:
        """Actions of a day, in sessions of one or two interests.

        Returns:
            user_id, pin_id, action (repin, click or hide), ts and file (null), in the order of ts; no two
            rows are equal.

        Raises:
            ValueError: the day is before the start date.
        """
        index = self._day_index(day)
        rng, world, catalogue = self._stream(_ACTIONS_STREAM, index), self.world, self._catalogue(index)

        users = np.arange(1, self.settings.users + 1)
        sessions_expected = world.activity(users) * WEEKDAY_ACTIVITY[day.weekday()] / ACTIONS_PER_SESSION
        session_users = np.repeat(users, rng.poisson(sessions_expected))
        lengths = 1 + rng.poisson(ACTIONS_PER_SESSION - 1, len(session_users))
        session = np.repeat(np.arange(len(session_users)), lengths)
        user, n = session_users[session], len(session)

        starts = SESSION_STARTS[0] + np.ptp(SESSION_STARTS) * rng.beta(*EVENING_PEAK, len(session_users))
        elapsed = np.cumsum(rng.uniform(*SECONDS_BETWEEN_ACTIONS, n)) * SECOND
        first = np.cumsum(lengths) - lengths
        ts = starts[session] + elapsed - elapsed[first][session]

        slots = world.draw_slots(session_users[:, None], rng.random((len(session_users), 2)))
        session_topics = world.interest_topics(session_users[:, None], slots, index)
        has_two = rng.random(len(session_users)) < TWO_INTERESTS_SHARE
        uses_second = has_two[session] & (rng.random(n) < 0.5)
        pin = catalogue.draw_of_topic(session_topics[session, uses_second.astype(int)], rng.random(n))
        off_interest, where = rng.random(n), rng.random(n)
        pin = np.where(off_interest < OFF_INTEREST_SHARE, catalogue.draw_any(where), pin)
        pin = np.where(off_interest < OFF_INTEREST_SHARE / 2, catalogue.draw_popular(where), pin)

        action = rng.choice(len(ACTIONS), n, p=ACTION_SHARES)
        # Whoever is interested in everything has nothing to hide, and clicks instead.
        hide = np.flatnonzero(action == HIDE)
        unwanted, exists = self._draw_unwanted(rng, catalogue, user[hide], index)
        pin[hide] = np.where(exists, unwanted, pin[hide])
        action[hide[~exists]] = CLICK

        continues = (session[1:] == session[:-1]) & (action[1:] == REPIN) & (action[:-1] == CLICK)
        again = 1 + np.flatnonzero(continues & (rng.random(n)[1:] < REPIN_AFTER_CLICK_SHARE))
        pin[again] = pin[again - 1]

        frame = pl.DataFrame(
            {
                "user_id": user,
                "pin_id": pin,
                "action": pl.Series(ACTIONS).gather(action),
                "ts": _timestamps(day, ts),
            }
        )
        return frame.unique().sort("ts", "user_id", "pin_id", "action").with_columns(_NO_FILE)

    def impressions(self, day: datetime.date) -> pl.DataFrame:
        """Impressions of a day: before each action its own pin and others.

        Returns:
            user_id, pin_id, ts and file (null), in the order of ts; no two rows are equal.

        Raises:
            ValueError: the day is before the start date.
        """
        index = self._day_index(day)
        rng, catalogue = self._stream(_IMPRESSIONS_STREAM, index), self._catalogue(index)
        actions = self.actions(day).select("user_id", "pin_id", pl.col("ts").to_physical())
        user, own, ts = (actions[name].to_numpy() for name in actions.columns)

        shape = (len(user), self.settings.impressions_per_action - 1)
        slots = self.world.draw_slots(user[:, None], rng.random(shape))
        relevant = catalogue.draw_of_topic(self.world.interest_topics(user[:, None], slots, index), rng.random(shape))
        kind, where = rng.choice(len(SHOWN_SHARES), shape, p=SHOWN_SHARES), rng.random(shape)
        others = np.choose(kind, [relevant, catalogue.draw_popular(where), catalogue.draw_any(where)])

        pin = np.column_stack([own, others])
        seconds_before = np.column_stack(
            [rng.uniform(*SECONDS_BEFORE_ACTION, len(user)), rng.uniform(0, SHOWN_WITHIN_SECONDS, shape)]
        )
        frame = pl.DataFrame(
            {
                "user_id": np.repeat(user, pin.shape[1]),
                "pin_id": pin.ravel(),
                "ts": (ts[:, None] - seconds_before * SECOND).astype(np.int64).ravel(),
            }
        ).with_columns(pl.col("ts").cast(pl.Datetime("us")))
        return frame.unique().sort("ts", "user_id", "pin_id").with_columns(_NO_FILE)

    def board_pins(self, day: datetime.date) -> pl.DataFrame:
        """Pins that users save to their boards on a day: what they repin, and a few that they click.

        Returns:
            board_id, user_id, pin_id, ts (the action's) and file (null), in the order of ts; no two rows are equal.

        Raises:
            ValueError: the day is before the start date.
        """
        index = self._day_index(day)
        rng, actions = self._stream(_BOARD_PINS_STREAM, index), self.actions(day)
        clicks_saved = pl.Series(rng.random(len(actions)) < SAVED_CLICKS_SHARE)
        saved = actions.filter((pl.col("action") == "repin") | ((pl.col("action") == "click") & clicks_saved))
        user, n = saved["user_id"].to_numpy(), len(saved)

        others = self.world.interest_topics(user, self.world.draw_slots(user, rng.random(n)), index)
        topics = self.world.topics_of(saved["pin_id"].to_numpy())
        boards = self.world.boards(user, np.where(rng.random(n) < MISFILED_SHARE, others, topics), index)
        frame = saved.select(pl.Series("board_id", boards), "user_id", "pin_id", "ts")
        return frame.unique().sort("ts", "board_id", "user_id", "pin_id").with_columns(_NO_FILE)

    def _draw_unwanted(
        self, rng: np.random.Generator, catalogue: "_Catalogue", users: NDArray[np.int64], day: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """(n,) a pin outside each user's interests, and (n,) whether one was found."""
        candidates = catalogue.draw_any(rng.random((len(users), HIDE_CANDIDATES)))
        topics, interests = catalogue.topics[candidates - 1], self.world.interests(users, day)
        outside = (topics[:, :, None] != interests[:, None, :]).all(axis=2)
        return candidates[np.arange(len(users)), outside.argmax(axis=1)], outside.any(axis=1)

    def _catalogue(self, day: int) -> "_Catalogue":
        pin_ids = np.arange(1, self.world.pin_count(day) + 1)
        recency = np.exp(-self.world.days_since_upload(pin_ids, day) / RECENT_DAYS)
        return _Catalogue(
            self.world.topics_of(pin_ids),
            self.world.attractiveness(pin_ids) * (1 + RECENT_BOOST * recency),
            self.settings.topics,
        )

    def _stream(self, purpose: int, day: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, purpose, day])

    def _day_index(self, day: datetime.date) -> int:
        if day < self.start_date:
            raise ValueError(f"{day} is before the first simulated day, {self.start_date}")
        return (day - self.start_date).days


class _Catalogue:
    """The pins 1 to n that exist on a day, to draw from: uniform numbers in, pin ids of their shape out."""

    def __init__(self, topics: NDArray[np.int64], weights: NDArray[np.float64], n_topics: int):
        self.topics = topics
        self._by_topic = np.argsort(topics, kind="stable")
        self._first_of_topic = np.searchsorted(topics, np.arange(n_topics + 1), sorter=self._by_topic)
        self._cumulative = np.concatenate([[0.0], np.cumsum(weights[self._by_topic])])

    def draw_any(self, uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        """Pins, all equally likely."""
        return 1 + (uniform * len(self.topics)).astype(np.int64)

    def draw_popular(self, uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        """Pins of all topics, in proportion to their weights."""
        return self._draw(np.zeros(uniform.shape, np.int64), np.full(uniform.shape, len(self.topics)), uniform)

    def draw_of_topic(self, topics: NDArray[np.int64], uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        """Pins of the topics, in proportion to their weights; any pins for a topic that has none."""
        start, stop = self._first_of_topic[topics], self._first_of_topic[topics + 1]
        return np.where(start < stop, self._draw(start, stop, uniform), self.draw_any(uniform))

    def _draw(
        self, start: NDArray[np.int64], stop: NDArray[np.int64], uniform: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        low, high = self._cumulative[start], self._cumulative[stop]
        place = np.searchsorted(self._cumulative, low + uniform * (high - low), side="right") - 1
        # Rounding may reach the end of a range; an empty range has no pin, and its draw is not used.
        return 1 + self._by_topic[np.clip(place, start, np.maximum(stop - 1, start)) % len(self.topics)]


def _timestamps(day: datetime.date, microseconds: NDArray[np.float64]) -> pl.Series:
    """Convert microseconds since the midnight that begins a day to timestamps."""
    midnight = (day - datetime.date(1970, 1, 1)).days * 24 * HOUR
    return pl.Series(midnight + microseconds.astype(np.int64)).cast(pl.Datetime("us"))
