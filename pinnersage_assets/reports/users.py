"""Some users to look at (paper, Figures 5 and 6): who, their clusters, and what they are recommended.

What belongs here: what is shown of a user. What does not: how it is laid out.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np
import polars as pl
from markupsafe import Markup
from numpy.typing import NDArray

from pinnersage_assets.model.projection import project
from pinnersage_assets.model.randomness import keyed_uniform
from pinnersage_assets.reports.figures import CLUSTER_COLOURS, projection

MOST_CLUSTERS, MOST_PINS, MOST_RECOMMENDATIONS, MOST_MEDOIDS = 12, 8, 8, 3
_MOST_POINTS = 400
_MOST_LETTERS = 200


@dataclass(frozen=True)
class UserData:
    """What is shown of users.

    ``users``: user_id, clusters, actions, from light to heavy. ``pins``: user_id, cluster, pin_id, actions, last_ts,
    title, category, image_url, a row a pin of a cluster; ``vectors`` (pins, n) in the same order. ``medoids``: user_id,
    cluster, medoid_pin_id, importance. ``recommendations``: user_id, medoid_pin_id, rank, pin_id, score, title,
    category, image_url. ``outcomes``: user_id, targets, recalled, relevant, set_size of those that were judged.
    """

    users: pl.DataFrame
    pins: pl.DataFrame
    vectors: NDArray[np.float32]
    medoids: pl.DataFrame
    recommendations: pl.DataFrame
    outcomes: pl.DataFrame


@dataclass(frozen=True)
class Pin:
    """A pin as it is shown: its picture where it has one that a page may load, else its title."""

    title: str
    category: str
    image_url: str | None
    is_medoid: bool = False
    cosine: float | None = None


@dataclass(frozen=True)
class Cluster:
    """A row of Figure 5."""

    number: int
    colour: str
    share: float
    pins: Sequence[Pin]
    more: int


@dataclass(frozen=True)
class Recommended:
    """What one medoid brought: a row of Figure 6."""

    number: int | None
    """The medoid's number in Figure 5; None where it is not among the clusters shown."""
    colour: str
    medoid: Pin
    share: float
    pins: Sequence[Pin]
    more: int


@dataclass(frozen=True)
class User:
    """A user's part of the page."""

    user_id: int
    actions: int
    pins: int
    clusters: Sequence[Cluster]
    more_clusters: int
    share_of_more: float
    recommended: Sequence[Recommended]
    outcome: Mapping[str, int] | None
    projection: Markup
    variance: float
    points_left_out: int


def spread(users: pl.DataFrame, count: int, *keys: int) -> pl.DataFrame:
    """Some users by seed, from light to heavy: of each of so many equal parts of all users, ordered, one.

    Args:
        users: user_id, clusters, actions.
        count: how many, or all users where there are fewer.
        keys: what the choice belongs to (seed, day).
    """
    ordered = users.sort("clusters", "actions", "user_id")
    chance = keyed_uniform("users of the report", *keys, ordered["user_id"].to_numpy())
    parts = np.array_split(np.arange(len(ordered)), min(count, len(ordered)))
    return ordered[[int(part[chance[part].argmin()]) for part in parts]]


def views(data: UserData) -> list[User]:
    """The users, in their order."""
    by_user = {
        name: frame.partition_by("user_id", as_dict=True)
        for name, frame in (
            ("pins", data.pins.with_row_index("row")),
            ("medoids", data.medoids),
            ("recommendations", data.recommendations),
            ("outcomes", data.outcomes),
        )
    }
    found = []
    for user in data.users.to_dicts():
        key = (user["user_id"],)
        if key not in by_user["pins"] or key not in by_user["medoids"]:
            continue
        recommendations = by_user["recommendations"].get(key, data.recommendations.clear())
        outcome = by_user["outcomes"][key].to_dicts()[0] if key in by_user["outcomes"] else None
        found.append(_view(user, by_user["pins"][key], by_user["medoids"][key], recommendations, outcome, data.vectors))
    return found


def _view(
    user: Mapping[str, int],
    pins: pl.DataFrame,
    medoids: pl.DataFrame,
    recommendations: pl.DataFrame,
    outcome: Mapping[str, int] | None,
    vectors: NDArray[np.float32],
) -> User:
    total = float(medoids["importance"].sum()) or 1.0
    ranked = medoids.sort(["importance", "medoid_pin_id"], descending=[True, False])
    shares = dict(
        ranked.group_by("cluster", maintain_order=True)
        .agg(pl.col("importance").sum() / total)
        .sort("importance", descending=True, maintain_order=True)
        .iter_rows()
    )
    numbers = {cluster: number for number, cluster in enumerate(shares)}
    shown = list(shares)[:MOST_CLUSTERS]
    of_medoids = dict(ranked.select("medoid_pin_id", "cluster").rows())
    clusters = [_cluster(numbers[c], shares[c], pins.filter(pl.col("cluster") == c), of_medoids) for c in shown]
    picture, variance, left_out = _plane(user["user_id"], pins, vectors, numbers, of_medoids)
    return User(
        user["user_id"],
        user["actions"],
        len(pins),
        clusters,
        len(shares) - len(shown),
        sum(list(shares.values())[MOST_CLUSTERS:]),
        _recommended(recommendations, pins, ranked, numbers, total),
        outcome,
        picture,
        variance,
        left_out,
    )


def _cluster(number: int, share: float, pins: pl.DataFrame, medoids: Mapping[int, int]) -> Cluster:
    """Medoids first, then what was acted on last: not what is nearest, which would flatter."""
    ordered = pins.with_columns(is_medoid=pl.col("pin_id").is_in(list(medoids))).sort(
        ["is_medoid", "last_ts", "pin_id"], descending=[True, True, False]
    )
    some = [pin_of(row, is_medoid=row["is_medoid"]) for row in ordered[:MOST_PINS].to_dicts()]
    return Cluster(number + 1, _colour(number), share, some, max(0, len(pins) - MOST_PINS))


def _recommended(
    recommendations: pl.DataFrame, pins: pl.DataFrame, medoids: pl.DataFrame, numbers: Mapping[int, int], total: float
) -> list[Recommended]:
    """What the most important of the medoids that brought something brought."""
    own = {row["pin_id"]: row for row in pins.to_dicts()}
    drawn = set(recommendations["medoid_pin_id"])
    rows = []
    for medoid in medoids.filter(pl.col("medoid_pin_id").is_in(list(drawn))).head(MOST_MEDOIDS).to_dicts():
        pin, number = medoid["medoid_pin_id"], numbers[medoid["cluster"]]
        brought = recommendations.filter(pl.col("medoid_pin_id") == pin).sort("rank")
        rows.append(
            Recommended(
                number + 1 if number < MOST_CLUSTERS else None,
                _colour(number),
                pin_of(own.get(pin, {"pin_id": pin}), is_medoid=True),
                medoid["importance"] / total,
                [pin_of(row, cosine=row["score"]) for row in brought[:MOST_RECOMMENDATIONS].to_dicts()],
                max(0, len(brought) - MOST_RECOMMENDATIONS),
            )
        )
    return rows


def _plane(
    user: int, pins: pl.DataFrame, vectors: NDArray[np.float32], numbers: Mapping[int, int], medoids: Mapping[int, int]
) -> tuple[Markup, float, int]:
    """All pins decide on the plane; of very many, the medoids and some by chance are drawn."""
    points, variance = project(vectors[pins["row"].to_numpy()])
    ids = pins["pin_id"].to_numpy()
    places = np.array([numbers[cluster] for cluster in pins["cluster"]])
    colours = np.where(places < MOST_CLUSTERS, places, -1)
    drawn = np.sort(np.argsort(keyed_uniform("points of a user", user, ids))[:_MOST_POINTS])
    row_of = {pin: row for row, pin in enumerate(ids.tolist())}
    marked = [(numbers[cluster], *points[row_of[pin]]) for pin, cluster in medoids.items() if pin in row_of]
    marked = sorted(one for one in marked if one[0] < MOST_CLUSTERS)
    label = f"The pins of user {user} on a plane, coloured by cluster, medoids numbered by importance."
    chart = projection(f"projection {'minus ' * (user < 0)}{abs(user)}", label, points[drawn], colours[drawn], marked)
    return chart, variance, len(ids) - len(drawn)


def pin_of(row: Mapping[str, object], is_medoid: bool = False, cosine: float | None = None) -> Pin:
    """A pin from a row with pin_id and, where known, title, category and image_url."""
    title = clean(row.get("title")) or f"pin {row['pin_id']}"
    return Pin(title, clean(row.get("category")), safe_url(row.get("image_url")), is_medoid, cosine)


def clean(text: object) -> str:
    """Text of users without control characters, on one line, and not endless."""
    if not isinstance(text, str):
        return ""
    # Controls, and marks that would turn the direction of what follows; letters of right-to-left scripts stay.
    kept = "".join(
        " " if unicodedata.category(letter) in ("Cc", "Cs", "Co", "Zl", "Zp") else letter
        for letter in text[: 10 * _MOST_LETTERS]
        if letter not in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff"
    )
    words = " ".join(kept.split())
    return words if len(words) <= _MOST_LETTERS else f"{words[:_MOST_LETTERS]}…"


def safe_url(address: object) -> str | None:
    """The address of a picture if a page may load it: http or https with a host, and nothing to break out with."""
    if not isinstance(address, str) or len(address) > 2000 or any(c.isspace() or not c.isprintable() for c in address):
        return None
    try:
        parts = urlsplit(address)
    except ValueError:
        return None
    return address if parts.scheme.lower() in ("http", "https") and parts.hostname else None


def _colour(number: int) -> str:
    return f"cluster-{number % CLUSTER_COLOURS}" if number < MOST_CLUSTERS else "control"
