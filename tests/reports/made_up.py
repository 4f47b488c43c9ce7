"""Frames for a page, made up: every part of it has something to show."""

import datetime

import numpy as np
import polars as pl

from pinnersage_assets.reports.page import PageData
from pinnersage_assets.reports.users import UserData

DAY = datetime.date(2026, 4, 10)
BASELINES = ("last_pin", "decay_average", "last_20_pins")
MODELS = {
    "last_pin": 0.1,
    "decay_average": 0.2,
    "calibrated_single_vector": 0.19,
    "last_20_pins": 0.3,
    "pinnersage": 0.2,
    "pinnersage_top_20_by_importance": 0.35,
    "calibrated": 0.36,
    "recommended": 0.19,
    "random": 0.01,
    "online": 0.4,
    "reclustered": 0.41,
}


def intervals(levels=None, wide=0.02):
    """Differences of these levels in every metric, with intervals of this half-width."""
    levels = MODELS if levels is None else levels
    return pl.DataFrame(
        [
            {
                "metric": metric,
                "model": model,
                "baseline": baseline,
                "difference": level - levels[baseline],
                "low": level - levels[baseline] - wide,
                "high": level - levels[baseline] + wide,
                "users": 800,
                "days": 3,
            }
            for metric in ("relevance", "recall", "r_precision", "reciprocal_rank")
            for baseline in (*BASELINES, *(["pinnersage"] if "online" in levels else []))
            for model, level in levels.items()
            if model != baseline and (baseline != "pinnersage" or model in ("online", "reclustered"))
        ]
    )


def lifts(*metrics):
    """Of the made-up models, one that only the paper has among them."""
    rows = []
    for model, level in [*MODELS.items(), ("HierTCN", None)]:
        row = {"model": model}
        for metric in metrics:
            row |= {
                metric: level,
                f"{metric}_lift": None if level is None else level / 0.1 - 1,
                f"paper_{metric}_lift": 0.3 if level is None or model == "decay_average" else None,
            }
        rows.append(row)
    return pl.DataFrame(rows, infer_schema_length=None)


def calibration():
    random = np.random.default_rng(0)
    rows = []
    for alpha in (0.8, 1.2, 1.6):
        for shares in ("equal", "importance"):
            for decay in (0.0, 0.01, 0.1, 0.25):
                for size in (3, 5, 10, 20):
                    score = 0.3 + 0.05 * np.log(size) - abs(decay - 0.05) + 0.02 * (shares == "importance")
                    for kind in ("medoid", "decayed_medoid"):
                        rows.append(("pinnersage", alpha, decay, size, shares, kind, score + random.normal(0, 0.005)))
    rows += [("single_vector", None, decay, None, None, None, 0.3 - decay / 5) for decay in (0.0, 0.01, 0.1, 0.25)]
    rows += [("last_pins", None, None, size, None, None, 0.25 + 0.04 * np.log(size)) for size in (1, 5, 20, 50)]
    schema = {
        "family": pl.String,
        "alpha": pl.Float64,
        "decay_per_day": pl.Float64,
        "embeddings": pl.Int64,
        "shares": pl.String,
        "representation": pl.String,
        "score": pl.Float64,
    }
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(
        relevance=pl.col("score") + 0.1,
        recall=pl.col("score") - 0.1,
        users=pl.lit(500),
        days=pl.lit(7),
        chosen=pl.col("score") == pl.col("score").max().over("family"),
    )


def users(titles=None, urls=None, count=3, seed=0):
    """Users with 1, 4, 7, ... clusters; titles and addresses of pictures are dealt out in turn."""
    titles = ["A title"] if titles is None else titles
    urls = [None] if urls is None else urls
    random = np.random.default_rng(seed)
    pins, vectors, medoids, recommended = [], [], [], []

    def pin(pin_id):
        return {"title": titles[pin_id % len(titles)], "category": "c", "image_url": urls[pin_id % len(urls)]}

    for user in range(1, count + 1):
        for cluster in range(3 * user - 2):
            centre = random.normal(size=16)
            members = int(random.integers(1, 14))
            first = 1000 * user + 50 * cluster
            medoids.append((user, cluster, first, float(random.random())))
            for pin_id in range(first, first + members):
                ts = datetime.datetime(2026, 4, 1) + datetime.timedelta(hours=pin_id % 100)
                pins.append(
                    {"user_id": user, "cluster": cluster, "pin_id": pin_id, "actions": 1, "last_ts": ts, **pin(pin_id)}
                )
                vector = centre + random.normal(scale=0.3, size=16)
                vectors.append(vector / np.linalg.norm(vector))
            if cluster < 3:
                for rank in range(12):
                    row = {"user_id": user, "medoid_pin_id": first, "rank": 3 * rank + cluster + 1, "score": 0.9}
                    recommended.append({**row, "pin_id": 90_000 + rank, **pin(rank)})
    schema = {"title": pl.String, "category": pl.String, "image_url": pl.String}
    pins = pl.DataFrame(pins, schema_overrides=schema)
    return UserData(
        pl.DataFrame({"user_id": range(1, count + 1), "clusters": range(1, 3 * count, 3), "actions": [9] * count}),
        pins,
        np.array(vectors, dtype=np.float32),
        pl.DataFrame(medoids, schema=["user_id", "cluster", "medoid_pin_id", "importance"], orient="row"),
        pl.DataFrame(recommended, schema_overrides=schema),
        pl.DataFrame({"user_id": [1], "targets": [5], "recalled": [1], "relevant": [3], "set_size": [400]}),
    )


def page_data(**parts):
    """All parts of the page; some replaced."""
    random = np.random.default_rng(1)
    x = random.random(300)
    tables = ("staging.actions", "staging.impressions", "users.clusters", "staging.rejected")
    made = {
        "intervals": intervals(),
        "retrieval": lifts("relevance", "recall").with_columns(users=pl.lit(390)),
        "ranking": lifts("r_precision", "reciprocal_rank").with_columns(
            padded_share=pl.lit(0.123), negatives=pl.lit("impressions")
        ),
        "next_action": lifts("accuracy"),
        "index_cost": pl.DataFrame(
            {
                "technique": ["LSH orthoplex", "HNSW"],
                "compared_with": ["LSH orthoplex"] * 2,
                "relative_cost": [1.0, 0.2],
                "paper_relative_cost": [None, 0.4],
                "queries": [100, 100],
                "pins": [1000, 1000],
                "recall": [0.99, 0.99],
            }
        ),
        "diversity": pl.DataFrame(
            {
                "embeddings": range(1, 11),
                "relevance": np.linspace(0.1, 0.4, 10),
                "recall": np.linspace(0.1, 0.3, 10),
                "diversity": 0.9 - 0.4 / np.arange(1, 11),
                "action_diversity": [0.75] * 10,
                "users": [390] * 10,
            }
        ),
        "clusters_per_user": pl.DataFrame(
            {"clusters": range(1, 90), "users": range(90, 1, -1), "mean_actions": np.arange(89) * 3.0}
        ),
        "volumes": pl.DataFrame(
            [
                {
                    "table_name": table,
                    "dt": DAY - datetime.timedelta(days=age),
                    "rows": 1000 * place * (3 if age else 1),
                }
                for place, table in enumerate(reversed(tables))
                for age in range(8)
            ]
        ),
        "protocol": pl.DataFrame(
            {
                "known_day": [DAY - datetime.timedelta(days=1)],
                "horizon_days": [1],
                "users_who_acted": [420],
                "cold_users": [30],
                "judged_users": [390],
                "targets": [1234],
                "targets_without_vector": [12],
                "corpus_pins": [26_000],
                "budget": [400],
                "relevance_cosine": [0.8],
                "random_pairs_above": [0.0042],
                "fitted_before": [DAY - datetime.timedelta(days=30)],
                "reason": [None],
            },
            schema_overrides={"reason": pl.String},
        ),
        "variety": pl.DataFrame(
            {
                "model": list(MODELS),
                "coverage": np.linspace(0.1, 0.9, len(MODELS)),
                "interest_entropy": np.linspace(1, 6, len(MODELS)),
                "overlap_with_popular": np.linspace(0, 1, len(MODELS)),
                "users": [390] * len(MODELS),
            }
        ),
        "online_agreement": pl.DataFrame(
            {
                "user_id": range(40),
                "moments": [2] * 40,
                "actions": range(1, 41),
                "adjusted_rand_index": np.linspace(1, 0.8, 40),
                "medoid_overlap": np.linspace(1, 0.7, 40),
            }
        ),
        "merged_vectors": pl.DataFrame(
            {
                "user_id": range(300),
                "medoid_cosine": x,
                "merged_nearness": 0.4 + 0.5 * x + random.normal(0, 0.05, 300),
                "medoid_nearness": 0.85 + random.normal(0, 0.03, 300),
            }
        ),
        "action_ages": pl.DataFrame(
            {
                "days_from": range(0, 90, 10),
                "days_to": range(10, 100, 10),
                "cosine": 0.3 + 0.2 / np.arange(1, 10),
                "actions": [100] * 9,
            }
        ),
        "calibration": calibration(),
        "board_holdout": pl.DataFrame(
            {
                "model": ["pixie", "pixie", "popular"],
                "graph": ["full", "pruned", "none"],
                "degree_exponent": [None, 0.91, None],
                "k": [100] * 3,
                "boards": [400] * 3,
                "hit_rate": [0.4, 0.45, 0.1],
                "low": [0.35, 0.4, 0.08],
                "high": [0.45, 0.5, 0.12],
                "paper_hit_rate": [None, 0.231, None],
            }
        ),
        "users": users(),
    }
    return PageData(DAY, **{**made, **parts})
