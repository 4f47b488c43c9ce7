"""The facts of the simulated world: what each pin, topic and user is.

What belongs here: everything that is a pure function of ids, a day and a seed, so that one pin's vector or
one user's interests can be had alone, and tests and evaluations can ask for the truth behind what a method
finds. What does not: what happens on a day (``simulated``).

Days are counted from 0, the first day of the simulation.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pinnersage_assets.model.randomness import keyed_normal, keyed_uniform
from pinnersage_assets.settings import SimulationSettings

# The corpus leaves out pins below 200 pixels or with more than half of the picture text; pins of low quality
# are clearly beyond one of the two bounds and all others clearly within both.
SMALL_WIDTHS, WIDTHS = (60, 190), (300, 1200)
TEXT_HEAVY_FRACTIONS, TEXT_FRACTIONS = (0.55, 0.95), (0.0, 0.35)

# Cosines. With these, pins of a topic reach relevance (0.8) in about nine pairs of ten and others never, and
# ordinary pins stay below 0.96, clear of near-duplicates. That holds from 64 dimensions up, where random
# directions are nearly orthogonal.
TOPIC_TO_CATEGORY = 0.45**0.5
PIN_TO_TOPIC = (0.88, 0.955)
REPEAT_TO_ORIGINAL = (0.98, 0.999)

TOPIC_SIZE_EXPONENT = 0.7  # Zipf: the largest of 400 topics has some 5 % of the pins, the smallest 0.1 %
ATTRACTIVENESS_EXPONENT = 0.6  # Pareto: the most attractive 1 % of the pins have about a sixth of the attractiveness

HEAVY_SHARE = 0.15
HEAVY_ACTIVITY = 3.0  # activity of heavy users relative to light ones
ACTIVITY_SIGMA = 0.7  # within light and within heavy users; about 0.8 over all
LIGHT_INTERESTS, HEAVY_INTERESTS = (3, 5), (12, 40)
LASTING_SHARE = 0.6
SHORT_LIVED_DAYS = (10, 30)
UNSORTED_SHARE = 0.15  # of a user's interests: without a board of their own

SUBJECTS = {
    "ceramics": ("glaze", "mug", "kiln", "vase", "tile"),
    "trail running": ("shoes", "ridge route", "race pack", "training plan", "headlamp"),
    "vegetable garden": ("raised bed", "tomatoes", "compost", "seedlings", "irrigation"),
    "home office": ("desk", "shelf", "lamp", "cable tray", "chair"),
    "sourdough": ("starter", "loaf", "scoring pattern", "focaccia", "crackers"),
    "watercolour": ("landscape", "botanical study", "palette", "sketchbook", "portrait"),
    "street style": ("coat", "sneakers", "layering", "denim", "scarf"),
    "bathroom": ("vanity", "shower", "mirror", "wall colour", "storage"),
    "weddings": ("bouquet", "invitation", "table setting", "venue", "dress"),
    "woodworking": ("joinery", "workbench", "stool", "cutting board", "finish"),
    "tattoos": ("fine line", "sleeve", "floral design", "lettering", "geometric design"),
    "houseplants": ("monstera", "terrarium", "plant stand", "propagation", "succulents"),
    "camping": ("tent", "camp kitchen", "hammock", "packing list", "fire pit"),
    "knitting": ("sweater", "socks", "cable stitch", "shawl", "yarn"),
    "classic cars": ("coupe", "restoration", "interior", "engine", "dashboard"),
    "braided hair": ("crown", "updo", "box braids", "ponytail", "accessories"),
    "noodle dishes": ("ramen", "pad thai", "udon", "broth", "dumplings"),
    "science lessons": ("volcano", "circuit", "microscope", "worksheet", "planets"),
    "birthday parties": ("cake", "balloons", "games", "goodie bag", "backdrop"),
    "architecture": ("staircase", "facade", "courtyard", "cabin", "brickwork"),
}
CATEGORIES = tuple(SUBJECTS)
MODIFIERS = ("simple", "vintage", "modern", "small", "colourful", "rustic", "minimal", "weekend")

_ROWS_AT_ONCE = 2048  # vectors made together: 4 MB an array at 256 dimensions


@dataclass(frozen=True)
class SimulatedWorld:
    """Pins 1, 2, ... and users 1, 2, ..., their topics, vectors, interests and activity."""

    settings: SimulationSettings
    seed: int

    # --- Topics ------------------------------------------------------------

    @cached_property
    def topic_centres(self) -> NDArray[np.float64]:
        """(topics, dimensions) unit vectors: cosine about 0.45 within a category and about 0 between two."""
        topics, dimensions = np.arange(self.settings.topics)[:, None], np.arange(self.settings.dimensions)
        categories = keyed_normal(self.seed, "category", topics % len(CATEGORIES), dimensions)
        categories /= np.linalg.norm(categories, axis=1, keepdims=True)
        own = keyed_normal(self.seed, "topic", topics, dimensions)
        return _at_cosine(categories, np.full(self.settings.topics, TOPIC_TO_CATEGORY), own)

    @cached_property
    def topic_names(self) -> list[str]:
        """What topics are about, such as "modern glaze"; the category of topic t is CATEGORIES[t % 20]."""
        names = []
        for topic in range(self.settings.topics):
            in_category, category = divmod(topic, len(CATEGORIES))
            subjects = SUBJECTS[CATEGORIES[category]]
            modifier, subject = divmod(in_category, len(subjects))
            names.append(f"{MODIFIERS[modifier % len(MODIFIERS)]} {subjects[subject]}")
        return names

    def _topic_by_size(self, uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        """Draw a topic for each uniform number, in proportion to the topics' sizes."""
        return np.searchsorted(self._topic_size_bounds, uniform, side="right")

    @cached_property
    def _topic_size_bounds(self) -> NDArray[np.float64]:
        sizes = np.cumsum(np.arange(1, self.settings.topics + 1) ** -TOPIC_SIZE_EXPONENT)
        return sizes[:-1] / sizes[-1]

    # --- Pins --------------------------------------------------------------

    def pin_ids(self, day: int) -> NDArray[np.int64]:
        """Ids of the pins that appear on a day: the catalogue on day 0, new pins later."""
        if day == 0:
            return np.arange(1, self.settings.pins + 1)
        return self.pin_count(day - 1) + np.arange(1, self.settings.new_pins_per_day + 1)

    def pin_count(self, day: int) -> int:
        """How many pins exist at the end of a day; their ids are 1 to this."""
        return self.settings.pins + day * self.settings.new_pins_per_day

    def days_since_upload(self, pin_ids: ArrayLike, day: int) -> NDArray[np.float64]:
        """(n,) whole days that pins have existed; infinite for the catalogue, older than the simulation."""
        later = np.asarray(pin_ids) - self.settings.pins
        # Without new pins no id is later than the catalogue, and the divisor does not matter.
        uploaded = (later - 1) // max(self.settings.new_pins_per_day, 1) + 1
        return np.where(later > 0, day - uploaded, np.inf)

    def planted_original(self, pin_ids: ArrayLike) -> NDArray[np.int64]:
        """(n,) the id of the pin that each pin was made to repeat, or its own.

        A repeat points at any earlier pin; where that is a repeat too, its pointer is followed in turn. So it
        ends at an original at last, for pin 1 is one.
        """
        originals = np.array(pin_ids, dtype=np.int64)
        repeats = self._is_repeat(originals)
        while repeats.any():
            later = originals[repeats]
            originals[repeats] = 1 + (self._uniform("repeated pin", later) * (later - 1)).astype(np.int64)
            repeats = self._is_repeat(originals)
        return originals

    def _is_repeat(self, pin_ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        return (self._uniform("is a repeat", pin_ids) < self.settings.near_duplicate_share) & (pin_ids > 1)

    def topics_of(self, pin_ids: ArrayLike) -> NDArray[np.int64]:
        """(n,) topics, 0-based; a repeat has its original's."""
        return self._topic_by_size(self._uniform("topic of pin", self.planted_original(pin_ids)))

    def vectors(self, pin_ids: ArrayLike) -> NDArray[np.float32]:
        """(n, dimensions) unit vectors."""
        pin_ids = np.asarray(pin_ids, dtype=np.int64)
        vectors = np.empty((len(pin_ids), self.settings.dimensions), dtype=np.float32)
        for start in range(0, len(pin_ids), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            vectors[rows] = self._vectors(pin_ids[rows])
        return vectors

    def _vectors(self, pin_ids: NDArray[np.int64]) -> NDArray[np.float64]:
        originals = self.planted_original(pin_ids)
        to_topic = _between(PIN_TO_TOPIC, self._uniform("cosine to topic", originals))
        vectors = _at_cosine(self.topic_centres[self.topics_of(originals)], to_topic, self._pin_noise(originals))
        repeats = originals != pin_ids
        to_original = _between(REPEAT_TO_ORIGINAL, self._uniform("cosine to original", pin_ids[repeats]))
        vectors[repeats] = _at_cosine(vectors[repeats], to_original, self._pin_noise(pin_ids[repeats]))
        return vectors

    def _pin_noise(self, pin_ids: NDArray[np.int64]) -> NDArray[np.float64]:
        return keyed_normal(self.seed, "pin noise", pin_ids[:, None], np.arange(self.settings.dimensions))

    def attractiveness(self, pin_ids: ArrayLike) -> NDArray[np.float64]:
        """(n,) how much pins draw actions, relative to each other: Pareto, at least 1."""
        return self._uniform("attractiveness", pin_ids) ** -ATTRACTIVENESS_EXPONENT

    def sizes(self, pin_ids: ArrayLike) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """(n,) widths and (n,) heights in pixels; a height is 1 to 1.8 times its width."""
        small = self._uniform("low quality", pin_ids) < self.settings.low_quality_share / 2
        share = self._uniform("width", pin_ids)
        widths = np.where(small, _between(SMALL_WIDTHS, share), _between(WIDTHS, share)).astype(np.int32)
        return widths, (widths * _between((1.0, 1.8), self._uniform("height", pin_ids))).astype(np.int32)

    def text_fractions(self, pin_ids: ArrayLike) -> NDArray[np.float32]:
        """(n,) shares of the picture that text covers."""
        # Low quality is one number: below half the share a pin is small, in the other half text covers it.
        low = self._uniform("low quality", pin_ids)
        heavy = (low >= self.settings.low_quality_share / 2) & (low < self.settings.low_quality_share)
        share = self._uniform("text", pin_ids)
        fractions = np.where(heavy, _between(TEXT_HEAVY_FRACTIONS, share), _between(TEXT_FRACTIONS, share))
        return fractions.astype(np.float32)

    # --- Users -------------------------------------------------------------

    def is_heavy(self, user_ids: ArrayLike) -> NDArray[np.bool_]:
        """Who has dozens of interests and is more active; shape as the ids."""
        return self._uniform("heavy", user_ids) < HEAVY_SHARE

    def activity(self, user_ids: ArrayLike) -> NDArray[np.float64]:
        """Mean number of actions a day: log-normal, of the mean in the settings; shape as the ids."""
        spread = np.exp(ACTIVITY_SIGMA * keyed_normal(self.seed, "activity", user_ids) - ACTIVITY_SIGMA**2 / 2)
        heaviness = np.where(self.is_heavy(user_ids), HEAVY_ACTIVITY, 1.0)
        return self.settings.actions_per_user_and_day * spread * heaviness / (1 + HEAVY_SHARE * (HEAVY_ACTIVITY - 1))

    def interest_counts(self, user_ids: ArrayLike) -> NDArray[np.int64]:
        """How many interests users have at a time; shape as the ids."""
        share = self._uniform("interests", user_ids)
        return np.where(self.is_heavy(user_ids), _integer(HEAVY_INTERESTS, share), _integer(LIGHT_INTERESTS, share))

    def draw_slots(self, user_ids: NDArray[np.int64], uniform: NDArray[np.float64]) -> NDArray[np.int64]:
        """Draw a slot, the place of one interest, for each uniform number, by Zipf's law; broadcasts."""
        bounds = _SLOT_BOUNDS[self.interest_counts(user_ids)]
        return (uniform[..., None] >= bounds).sum(axis=-1)

    def is_lasting(self, user_ids: ArrayLike, slots: ArrayLike) -> NDArray[np.bool_]:
        """Which interests never change; everybody's weightiest one is among them; broadcasts."""
        return (self._uniform("lasting", user_ids, slots) < LASTING_SHARE) | (np.asarray(slots) == 0)

    def interest_topics(self, user_ids: ArrayLike, slots: ArrayLike, day: int) -> NDArray[np.int64]:
        """Topics that users' slots hold on a day; broadcasts.

        A short-lived interest is replaced at the end of its epoch. Epochs of a slot are equally long and
        start on days of its own, so that the topic follows from the day alone.
        """
        length = _integer(SHORT_LIVED_DAYS, self._uniform("epoch length", user_ids, slots))
        phase = (length * self._uniform("epoch phase", user_ids, slots)).astype(np.int64)
        epoch = np.where(self.is_lasting(user_ids, slots), -1, (day + phase) // length)
        return self._topic_by_size(self._uniform("interest", user_ids, slots, epoch))

    def interests(self, user_ids: ArrayLike, day: int) -> NDArray[np.int64]:
        """(n, 40) topics that users are interested in on a day, the weightiest first; -1 after the last."""
        user_ids, slots = np.asarray(user_ids)[:, None], np.arange(HEAVY_INTERESTS[1])
        return np.where(slots < self.interest_counts(user_ids), self.interest_topics(user_ids, slots, day), -1)

    # --- Boards ------------------------------------------------------------

    def boards(self, user_ids: NDArray[np.int64], topics: NDArray[np.int64], day: int) -> NDArray[np.int64]:
        """(n,) the boards to which users (n,) save pins of topics (n,) on a day.

        A user has a board for each interest, but for a share of them. These, and whatever is of no interest,
        meet on one board that mixes topics.
        """
        users, rows = np.unique(user_ids, return_inverse=True)
        is_interest = (self.interests(users, day)[rows] == topics[:, None]).any(axis=1)
        is_sorted = is_interest & (self._uniform("unsorted", user_ids, topics) >= UNSORTED_SHARE)
        # Like users and pins, boards are numbered from 1: of each user first the mixed one, then one a topic.
        return 1 + (user_ids - 1) * (self.settings.topics + 1) + np.where(is_sorted, 1 + topics, 0)

    def board_topics(self, board_ids: ArrayLike) -> NDArray[np.int64]:
        """(n,) the topic that each board is about; -1 for those that mix topics."""
        return (np.asarray(board_ids) - 1) % (self.settings.topics + 1) - 1

    def _uniform(self, purpose: str, *keys: ArrayLike) -> NDArray[np.float64]:
        return keyed_uniform(self.seed, purpose, *keys)


def _at_cosine(
    directions: NDArray[np.float64], cosines: NDArray[np.float64], noise: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(n, d) unit vectors at cosines (n,) to unit directions (n, d), on the side that noise (n, d) points to.

    Only the part of the noise at right angles to the direction counts, so that the cosines are exact.
    """
    noise = noise - (noise * directions).sum(axis=1, keepdims=True) * directions
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    return cosines[:, None] * directions + np.sqrt(1 - cosines[:, None] ** 2) * noise


def _between(bounds: tuple[float, float], uniform: NDArray[np.float64]) -> NDArray[np.float64]:
    return bounds[0] + (bounds[1] - bounds[0]) * uniform


def _integer(bounds: tuple[int, int], uniform: NDArray[np.float64]) -> NDArray[np.int64]:
    """Integers from the first bound to the last, both included."""
    return (bounds[0] + (bounds[1] - bounds[0] + 1) * uniform).astype(np.int64)


def _slot_bounds() -> NDArray[np.float64]:
    """(41, 39): row n has the upper bounds of the slots' shares of a user with n interests; the last is 1."""
    most = HEAVY_INTERESTS[1]
    weights = np.cumsum(1 / np.arange(1, most + 1))
    bounds = np.minimum(weights / np.concatenate([[1.0], weights])[:, None], 1.0)
    return bounds[:, :-1]


_SLOT_BOUNDS = _slot_bounds()
