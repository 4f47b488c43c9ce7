"""Every number that a user may want to change, in one typed place.

What belongs here: the paper's numbers (window, α, λ, medoids sampled, budget), thresholds, sizes of the simulation,
and the three environment variables. What does not: anything that is a fact of the method or of the data.

A user overrides settings in ``$PINNERSAGE_DATA_DIR/settings.toml`` (one table a section) for good, or for one run in
the launchpad of the Dagster UI, where they appear as the resource ``settings``.
"""

import datetime
import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

import dagster as dg
import polars as pl
from pydantic import Field, ValidationError, model_validator

from pinnersage_assets.model.calibration import FAMILIES, grid
from pinnersage_assets.model.pixie import PixieParameters
from pinnersage_assets.model.variants import CONTROLS, MEDOIDS, VARIANTS, Variant

SIMULATED_START_DATE = datetime.date(2026, 1, 1)
SOURCES = ("simulated", "landing")


class Section(dg.Config, extra="forbid"):
    """A group of settings; a misspelt one is an error, never ignored."""


class WindowSettings(Section):
    """Which actions describe a user."""

    days: int = Field(
        90,
        ge=1,
        description="Days of actions that are clustered, the partition's day included. "
        "Set it in settings.toml: the lineage shown in the UI follows it when the definitions load.",
    )
    interest_actions: list[str] = Field(
        ["repin", "click"],
        description="Values of `action` that mean interest; all others are kept but never clustered.",
    )


class ClusteringSettings(Section):
    """PinnerSage's three steps: clusters, medoids, importance (paper, section 3.1)."""

    alpha: float = Field(
        1.2,
        ge=0,
        description="α: clusters merge while their squared Ward distance is at most this. "
        "Two single pins merge up to a cosine of 1 - α/2. Belongs to the embedding: calibrate it.",
    )
    decay_per_day: float = Field(0.01, ge=0, allow_inf_nan=False, description="λ of importance (Equation 3), per day.")
    largest_user: int = Field(
        5000, ge=1, description="Distinct pins of a user that are clustered; of a user with more, the latest acted on."
    )
    memory_megabytes: int = Field(
        512, ge=1, description="What clustering may take beside the vectors of a bucket's pins, in each worker."
    )
    actions_per_medoid: int = Field(
        0,
        ge=0,
        description="A cluster gets one medoid for every so many actions, begun ones included; 0 means one always.",
    )
    decayed_medoids: bool = Field(
        False,
        description="Whether an action weighs exp(-λ age) in the choice of the medoid too; in the paper it does not.",
    )

    @model_validator(mode="after")
    def _medoids_are_of_one_kind(self) -> Self:
        if self.actions_per_medoid and self.decayed_medoids:
            raise ValueError("decayed_medoids are one a cluster: set actions_per_medoid to 0, or leave them off")
        return self


class FeedbackSettings(Section):
    """Importance learnt from what users did with what they were shown (paper, section 7; off by default)."""

    strength: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="How many impressions the average rate of success weighs as much as; 0 switches feedback off.",
    )
    minimal_cosine: float = Field(
        0.6, ge=-1, le=1, description="An impression says something of the user's nearest medoid from this cosine on."
    )
    hours: int = Field(
        24, ge=1, description="An impression succeeds, or fails, by what the user does with the pin in so many hours."
    )
    hide_actions: list[str] = Field(["hide"], description="Values of `action` that say no to what was shown.")


class CorpusSettings(Section):
    """Which pins may be recommended (paper, section 4.1, candidate pool refinement)."""

    near_duplicate_cosine: float = Field(
        0.97, gt=0, le=1, description="A pin at or above this cosine to an earlier representative repeats it."
    )
    minimal_side_pixels: int = Field(
        200, ge=0, description="Pins whose shorter side is below this are left out; 0 leaves out none."
    )
    maximal_text_fraction: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Pins with more than this share of the picture covered by text are left out; 1 leaves out none.",
    )
    minimal_actions: int = Field(
        0,
        ge=0,
        description="Pins with fewer actions of interest than this inside the window, by all users and on "
        "near-duplicates too, are left out; 0 leaves out none. "
        "Set it in settings.toml: the lineage shown in the UI follows it when the definitions load.",
    )


class GraphSettings(Section):
    """The graph of pins and boards (Pixie, section 3)."""

    days: int = Field(
        0,
        ge=0,
        description="Days that make up the graph, the partition's day included; 0 means those of window.days. "
        "Set it in settings.toml: the lineage shown in the UI follows it when the definitions load.",
    )
    boards: str = Field(
        "given",
        pattern="^(given|sessions)$",
        description="What boards are: those `given` in staging.board_pins or, for data without any, users' `sessions`: "
        "their actions of interest on a day without a pause of more than graph.session_minutes. "
        "Set it in settings.toml: the lineage shown in the UI follows it when the definitions load.",
    )
    session_minutes: int = Field(
        30, ge=0, description="A longer pause begins a new session; with 0 each moment is one, such as a basket's."
    )
    diverse_share: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of the boards that pruning drops, those whose pins' topics differ most; 0 drops none.",
    )
    degree_exponent: float = Field(
        0.91,
        gt=0,
        le=1,
        description="δ of pruning: a pin on n boards stays on the n^δ that are most like it; 1 keeps all.",
    )


class IndexSettings(Section):
    """How the nearest pins are found: exactly in a small corpus, by HNSW (USearch) in a large one."""

    exact_up_to: int = Field(
        30_000, ge=0, description="Pins up to which the corpus is searched exactly, which is cheaper then."
    )
    shards: int = Field(
        1, ge=1, description="HNSW files that the corpus is divided into by pin; each is built and searched by itself."
    )
    connectivity: int = Field(16, ge=2, description="HNSW's M: edges of a node on the upper layers.")
    expansion_add: int = Field(280, ge=1, description="HNSW's efConstruction.")
    expansion_search: int = Field(100, ge=1, description="HNSW's ef, or twice the neighbours asked for.")
    dtype: str = Field("i8", pattern="^(f32|f16|bf16|i8)$", description="How the index stores vectors.")
    recall_sample: int = Field(500, ge=1, description="Medoids whose neighbours' recall is measured on every build.")
    recall_floor: float = Field(
        0.95,
        ge=0,
        le=1,
        description="Recall below this fails the index's blocking check; a grown index is built anew first.",
    )


class RetrievalSettings(Section):
    """From medoids to candidates (paper, sections 4 and 5.3.1)."""

    sampled_medoids: int = Field(3, ge=1, description="e: medoids drawn per user, in proportion to importance.")
    budget: int = Field(400, ge=1, description="Candidates per user, shared out among the e medoids.")
    shares: str = Field(
        "equal",
        pattern="^(equal|importance)$",
        description="What each medoid brings: `equal`, floor(budget / e), or in proportion to `importance`.",
    )
    refill: bool = Field(
        False,
        description="Whether pins that several medoids bring are replaced by the next; in the paper they are not.",
    )
    margin: int = Field(
        100, ge=0, description="Neighbours fetched beyond a medoid's share, to replace those the user has seen."
    )
    condition: str = Field(
        "",
        description="Only pins for which this holds are recommended: SQL over the columns of staging.pins, such as "
        "`category = 'weddings'`; empty means all.",
    )

    @model_validator(mode="after")
    def _every_medoid_has_a_share(self) -> Self:
        if self.budget < self.sampled_medoids:
            raise ValueError(f"a budget of {self.budget} leaves nothing to each of {self.sampled_medoids} medoids")
        return self


_WALK = ("steps", "restart", "scaled", "boosted", "stop_pins", "stop_visits", "bias")


class PixieSettings(Section):
    """Candidates by random walks over the pruned graph of pins and boards (Pixie, section 3)."""

    queries: str = Field(
        "actions",
        pattern="^(actions|medoids)$",
        description="Where walks begin: at the pins of a user's latest `actions` of interest inside the window, by "
        "time and action, or at the user's `medoids`, by importance. "
        "Set it in settings.toml: the lineage shown in the UI follows it when the definitions load.",
    )
    query_pins: int = Field(
        20, ge=1, description="Pins that walks of a user begin at: the latest acted on, or the most important medoids."
    )
    decay_per_day: float = Field(
        0.05, ge=0, allow_inf_nan=False, description="How fast an action fades, exp(-decay age); 0 switches that off."
    )
    action_weights: dict[str, float] = Field(
        {}, description="What an action weighs, such as `{click = 0.5}`; those that are not named weigh 1."
    )
    steps: int = Field(5_000, ge=1, description="N: steps of all walks of a user together.")
    restart: float = Field(0.5, gt=0, le=1, description="α: the probability that a walk ends with a step.")
    scaled: bool = Field(
        True, description="Whether steps are shared out by the degrees of query pins too (equations 1 and 2)."
    )
    boosted: bool = Field(
        True, description="Whether pins that are visited from several query pins count more (equation 3)."
    )
    stop_pins: int = Field(
        0, ge=0, description="n_p: walks of a user stop once so many pins are well visited; 0 never stops them early."
    )
    stop_visits: int = Field(4, ge=1, description="n_v: visits that make a pin well visited.")
    bias: float = Field(
        0.0,
        ge=0,
        le=1,
        description="The probability that a step keeps to the category that most of the user's query pins have, where "
        "the board has pins of it.",
    )
    budget: int = Field(0, ge=0, description="Candidates per user; 0 means those of retrieval.budget.")

    def parameters(self) -> PixieParameters:
        """How to walk, for all pins that are visited."""
        return PixieParameters(**{name: getattr(self, name) for name in _WALK})

    @model_validator(mode="after")
    def _weights_are_weights(self) -> Self:
        for action, weight in self.action_weights.items():
            if not 0 <= weight < math.inf:
                raise ValueError(f"action_weights.{action} is {weight} and must be a number that is not negative")
        return self


class BlendingSettings(Section):
    """One list of both: PinnerSage's candidates and Pixie's."""

    pixie_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Pixie's part of the retrieval.budget pins, PinnerSage's is the rest; 0 and 1 leave one out.",
    )


class EvaluationSettings(Section):
    """How the models of yesterday are judged on the actions of today (paper, section 5.3)."""

    horizon_days: int = Field(
        1,
        ge=1,
        description="Days of actions, the partition's day the last, on which models of the day before them are judged. "
        "Set it in settings.toml: the lineage shown in the UI follows it when the definitions load.",
    )
    users: int = Field(2000, ge=1, description="Users evaluated a day, drawn by seed; fewer if there are fewer.")
    relevance_cosine: float = Field(
        0.8, gt=0, le=1, description="An action is served by a pin at this cosine or above."
    )
    exact_up_to: int = Field(
        50_000,
        ge=0,
        description="Pins up to which models are judged on exact neighbours; in a larger corpus on those of the index.",
    )
    largest_share: float = Field(
        0.04, gt=0, le=1, description="Candidates of a user are at most this share of the corpus."
    )
    seeds: int = Field(20, ge=1, description="Draws of the models that sample, over which their mean is taken.")
    keep_seen: bool = Field(
        False, description="Whether pins seen inside the window stay in candidate sets, and actions on them count."
    )
    negatives_per_action: int = Field(
        20, ge=1, description="Impressions, or random pins, among which each action is ranked."
    )
    trailing_days: int = Field(30, ge=1, description="Days, up to the partition's, over which intervals are computed.")
    since: str = Field("", description="First day of the test period: intervals leave out earlier days; empty: none.")
    index_cost_pins: int = Field(
        10_000, ge=1, description="Pins, drawn by seed, on which ways to search are compared (Table 2)."
    )
    boards: int = Field(1000, ge=1, description="Boards a day whose last pin is held out, drawn by seed.")
    query_pins: int = Field(
        20, ge=1, description="Pins of a board, the latest before the one held out, that models begin with."
    )
    degree_exponents: list[Annotated[float, Field(gt=0, le=1)]] = Field(
        [],
        description="δ, besides the one in use, with which the graph is pruned for the curve over δ in "
        "evaluation.board_holdout; each takes as long as a model.",
    )


class CalibrationSettings(Section):
    """Which α, λ, number of medoids and shares suit the data: chosen from a grid by days that are over."""

    use: str = Field(
        "explicit",
        pattern="^(explicit|paper|calibrated)$",
        description="What users' embeddings and recommendations are made with: the `explicit` settings as they stand, "
        "λ, e and shares of the `paper`, not refilled, or what was `calibrated` by days before, refilled (explicit "
        "until there is a choice). "
        "Set it in settings.toml: the lineage shown in the UI follows it when the definitions load.",
    )
    days: int = Field(14, ge=1, description="Days, up to the partition's, by which a choice is made.")
    until: str = Field(
        "", description="Last day of the validation period: later choices are made by the days up to it; empty: none."
    )
    users: int = Field(300, ge=1, description="Users a day for whom the grid is tried, drawn by seed.")
    alphas: list[float] = Field([0.3, 0.6, 1.0, 1.4], min_length=1, description="α to choose from.")
    decays_per_day: list[float] = Field(
        [0.0, 0.01, 0.03, 0.1, 0.3], min_length=1, description="λ to choose from, also for decay averages."
    )
    medoids: list[int] = Field([3, 10, 20, 50], min_length=1, description="e to choose from.")
    shares: list[str] = Field(["equal", "importance"], min_length=1, description="Shares of the budget to choose from.")
    representations: list[str] = Field(
        ["medoid", "decayed_medoid"],
        min_length=1,
        description="Kinds of medoid to choose from: the paper's, or those in whose choice actions fade.",
    )
    last_pins: list[int] = Field(
        [1, 5, 10, 20, 50, 100], min_length=1, description="How many last pins to choose from, for the baseline."
    )

    def grid(self) -> pl.DataFrame:
        """The candidates, as of `model.calibration.grid`."""
        return grid(self.alphas, self.decays_per_day, self.medoids, self.shares, self.representations, self.last_pins)

    @model_validator(mode="after")
    def _all_candidates_mean_something(self) -> Self:
        self.grid()
        if not MEDOIDS.issuperset(self.representations):
            raise ValueError(f"representations must be of {', '.join(sorted(MEDOIDS))}: the lineage keeps pins alone")
        return self


class ModelSettings(Section):
    """A model of one's own, judged beside the others; the fields are those of `model.variants.Variant`.

    A number of embeddings beyond what a user has selects all of them.
    """

    clustering: str = "ward"
    representation: str = "medoid"
    decay_per_day: float = 0.01
    selection: str = "sampled"
    embeddings: int = 3
    shares: str = "equal"
    refill: bool = True
    alpha: float | None = None

    def variant(self) -> Variant:
        """What these settings say."""
        return Variant(**self.model_dump())

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        self.variant()
        return self


class ReportSettings(Section):
    """The page of a day."""

    users: int = Field(10, ge=1, description="Users shown on the page of a day, drawn by seed from light to heavy.")
    address: str = Field(
        "http://localhost:3001",
        pattern="^https?://[^/]",
        description="Where the folder `reports` is served, for the link in the UI; `make dev` serves it there.",
    )


class ServingSettings(Section):
    """Answers at any moment: the stored clusters of a day, and what users have done since (paper, section 4.2)."""

    store: str = Field(
        "lmdb",
        pattern="^(lmdb|rediss?://.+)$",
        description="Where clusters and events are kept: `lmdb`, files under `serving/`, or the address of a Redis "
        "server, `redis://host:6379/0` or, with TLS, `rediss://...`.",
    )
    stream: str = Field(
        "files",
        pattern="^(files|redis)$",
        description="Where events come from: `files` appended in `serving/events`, or the stream `pinnersage:events` "
        "of the store's Redis server.",
    )
    recent_actions: int = Field(
        20, ge=1, description="Latest actions of interest of a user that update the stored clusters."
    )
    host: str = Field(
        "127.0.0.1",
        description="Address that the service listens on; beyond this machine it asks for "
        "the key in PINNERSAGE_API_KEY.",
    )
    port: int = Field(8080, ge=0, le=65535, description="Port that the service listens on.")
    largest_answer: int = Field(1000, ge=1, description="Pins that one request may ask for, at most.")
    requests_per_minute: int = Field(60_000, ge=1, description="Requests that one address may make in a minute.")
    grace_minutes: float = Field(
        5, ge=0, description="After midnight, how long events of the day before are waited for until they land."
    )
    remembered_days: int = Field(
        7, ge=1, description="Days for which event ids are remembered, so that what is delivered twice counts once."
    )


class RetentionSettings(Section):
    """How far back what is large is kept: so many days before the day of a clean-up, 0 for ever.

    What no setting is about is small, or, as staging, cannot be made again from anything else in the warehouse.
    """

    raw_days: int = Field(
        7,
        ge=0,
        description="raw.actions, raw.impressions, raw.board_pins and raw.pins: what staging holds too, most of it "
        "embeddings.",
    )
    clusters_days: int = Field(2, ge=0, description="users.clusters: which pins form whose clusters.")
    edges_days: int = Field(2, ge=0, description="graph.edges: which pins are on which boards, a row each and day.")
    medoids_days: int = Field(30, ge=0, description="users.medoids and marts.interests: users' embeddings.")
    recommendations_days: int = Field(
        7,
        ge=0,
        description="retrieval.recommendations, retrieval.pixie_recommendations, retrieval.blended_recommendations and "
        "marts.medoid_reuse; at least evaluation.horizon_days.",
    )
    neighbours_days: int = Field(2, ge=0, description="retrieval.medoid_neighbours.")
    corpus_days: int = Field(
        7,
        ge=0,
        description="corpus.pins and corpus.excluded, a row a pin and day; at least evaluation.horizon_days and "
        "retention.index_days.",
    )
    evaluation_days: int = Field(
        90,
        ge=0,
        description="evaluation.retrieval_users and evaluation.ranking_users; at least evaluation.trailing_days - 1.",
    )
    index_days: int = Field(
        7, ge=0, description="Files of the index, whose rows stay without a path; at least evaluation.horizon_days."
    )
    graph_days: int = Field(2, ge=0, description="Files of the graph, whose rows stay without a path.")
    snapshot_days: int = Field(2, ge=0, description="What the service answers from; rows stay without a version.")


class EngineSettings(Section):
    """Where the work on many users and pins is done; the rows are the same wherever that is."""

    kind: str = Field(
        "in_process",
        pattern="^(in_process|processes|ray)$",
        description="`in_process`, one bucket of users or pins after another with all processors; `processes`, each "
        "bucket in one of several processes of this machine; `ray`, on a Ray cluster (needs the extra `ray`).",
    )
    workers: int = Field(
        0, ge=0, description="Processes, or processors of a Ray cluster on this machine; 0 means one a processor."
    )
    rows_a_bucket: int = Field(
        100_000,
        ge=1,
        description="Rows of whole users that make a bucket, some more or less, or pins: what a worker holds in memory "
        "at once grows with it.",
    )
    ray_address: str = Field(
        "",
        pattern=r"^(|auto|(ray://)?[^/:\s]+:\d+)$",
        description="Of a Ray cluster that is running, `host:6379`, `ray://host:10001` or `auto`; empty starts one on "
        "this machine for each run. Its nodes need the data directory under the same path.",
    )


class WarehouseSettings(Section):
    """The DuckDB file."""

    memory_megabytes: int = Field(
        2048,
        ge=256,
        description="What DuckDB may take in a process; what does not fit goes to disk for the time being.",
    )


class SimulationSettings(Section):
    """Sizes of the simulated source."""

    users: int = Field(2000, ge=1, description="Users.")
    pins: int = Field(20_000, ge=1, description="Pins in the catalogue of the first day.")
    new_pins_per_day: int = Field(100, ge=0, description="Pins that appear on every later day.")
    dimensions: int = Field(256, ge=2, description="Length of an embedding.")
    topics: int = Field(2000, ge=1, description="Topics that pins and interests belong to.")
    actions_per_user_and_day: float = Field(1.0, ge=0, description="Mean over users; single users differ widely.")
    impressions_per_action: int = Field(8, ge=1, description="Pins shown for each action, the action's own included.")
    near_duplicate_share: float = Field(0.05, ge=0, lt=1, description="Share of pins that repeat an earlier one.")
    low_quality_share: float = Field(0.05, ge=0, lt=1, description="Share of pins that are too small or mostly text.")


class ChecksSettings(Section):
    """From when on a day is a warning to operators: none of these blocks what comes after."""

    trailing_days: int = Field(7, ge=1, description="Days before a day that it is held against.")
    volume_ratio: float = Field(
        2,
        gt=1,
        description="Rows of actions, impressions and board_pins: so often as many as usual, or as few, are a warning.",
    )
    clusters_ratio: float = Field(1.25, gt=1, description="The same of clusters per user.")
    reuse_ratio: float = Field(1.5, gt=1, description="The same of users who share a medoid.")
    cosine_drift: float = Field(
        0.05, gt=0, le=2, description="The same of the mean score of recommendations: more or less than the day before."
    )
    judged_users: int = Field(
        100, ge=1, description="Users who must have been judged for baselines that did better to be a warning."
    )
    hours_to_publish: float = Field(
        3, gt=0, description="Hours after the schedule's time by which yesterday must have been published."
    )


class Settings(dg.ConfigurableResource, extra="forbid"):
    """All settings; each section is documented by its own class."""

    seed: int = Field(0, ge=0, lt=2**31, description="Seed of everything random.")
    window: WindowSettings = WindowSettings()
    clustering: ClusteringSettings = ClusteringSettings()
    feedback: FeedbackSettings = FeedbackSettings()
    corpus: CorpusSettings = CorpusSettings()
    graph: GraphSettings = GraphSettings()
    index: IndexSettings = IndexSettings()
    retrieval: RetrievalSettings = RetrievalSettings()
    pixie: PixieSettings = PixieSettings()
    blending: BlendingSettings = BlendingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    calibration: CalibrationSettings = CalibrationSettings()
    models: dict[str, ModelSettings] = Field(
        {},
        description="Models of your own in the evaluation, a section `models.name` each: what is said of a variant in "
        "`pinnersage_assets/model/variants.py`.",
    )
    report: ReportSettings = ReportSettings()
    serving: ServingSettings = ServingSettings()
    retention: RetentionSettings = RetentionSettings()
    engine: EngineSettings = EngineSettings()
    checks: ChecksSettings = ChecksSettings()
    warehouse: WarehouseSettings = WarehouseSettings()
    simulation: SimulationSettings = SimulationSettings()

    @property
    def graph_days(self) -> int:
        """Days that make up the graph."""
        return self.graph.days or self.window.days

    @property
    def longest_window(self) -> int:
        """The most days, up to a day, that something is made from."""
        return max(self.window.days, self.graph_days)

    @model_validator(mode="after")
    def _choices_are_not_judged_by_what_made_them(self) -> Self:
        until, since = read_day(self.calibration.until), read_day(self.evaluation.since)
        if until and since:
            first_judged = since - datetime.timedelta(days=self.evaluation.horizon_days - 1)
            if first_judged <= until:
                raise ValueError(
                    f"the test period, whose first actions are of {first_judged} (evaluation.since {since}, "
                    f"horizon_days {self.evaluation.horizon_days}), overlaps the validation period that ends on "
                    f"{until} (calibration.until)"
                )
        return self

    @model_validator(mode="after")
    def _what_is_read_back_is_kept(self) -> Self:
        kept, horizon, trailing = self.retention, self.evaluation.horizon_days, self.evaluation.trailing_days
        judged = f"models are judged after evaluation.horizon_days, {horizon}"
        needed = [
            ("recommendations_days", horizon, judged),
            ("corpus_days", horizon, judged),
            ("corpus_days", kept.index_days or math.inf, "an index grows by what changed in corpus.pins since its day"),
            ("index_days", horizon, judged),
            ("evaluation_days", trailing - 1, f"intervals are over evaluation.trailing_days, {trailing}"),
        ]
        for name, least, why in needed:
            if (days := getattr(kept, name)) and days < least:
                enough = "0 (for ever)" if least == math.inf else f"at least {least}, or 0 (for ever)"
                raise ValueError(f"retention.{name} is {days} and must be {enough}: {why}")
        return self

    @model_validator(mode="after")
    def _a_redis_stream_has_a_server(self) -> Self:
        if self.serving.stream == "redis" and self.serving.store == "lmdb":
            raise ValueError("serving.stream is redis, and serving.store names no server: make it redis://...")
        return self

    @model_validator(mode="after")
    def _models_have_names_of_their_own(self) -> Self:
        # The last two are columns that stand beside models.
        taken = sorted(self.models.keys() & {*VARIANTS, *CONTROLS, *FAMILIES.values(), "user_id", "dt"})
        if taken:
            raise ValueError(f"models cannot be named {', '.join(taken)}: these names are taken")
        return self


def read_day(text: str) -> datetime.date | None:
    """A day of a setting; None where it is empty.

    Raises:
        ValueError: it is no date.
    """
    if not text:
        return None
    try:
        return datetime.date.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a date such as 2026-01-31") from error


def load_settings(path: Path) -> Settings:
    """Read settings from a TOML file; a file that does not exist means the defaults.

    Raises:
        ValueError: the file is not TOML, or a setting is unknown or impossible; names the file and the settings.
    """
    if not path.exists():
        return Settings()
    try:
        return Settings(**tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a TOML file: {error}") from error
    except ValidationError as error:
        # What is wrong with several settings together stands at none of them.
        named = ((".".join(map(str, e["loc"])), e["msg"].removeprefix("Value error, ")) for e in error.errors())
        problems = "; ".join(": ".join(filter(None, parts)) for parts in named)
        problems = problems.replace("Extra inputs are not permitted", "there is no such setting")
        raise ValueError(f"{path} has settings that cannot be used: {problems}") from error


@dataclass(frozen=True)
class Environment:
    """What the three environment variables say."""

    data_dir: Path
    source: str
    start_date: datetime.date


def read_environment(variables: Mapping[str, str] = os.environ) -> Environment:
    """Interpret ``PINNERSAGE_DATA_DIR``, ``PINNERSAGE_SOURCE`` and ``PINNERSAGE_START_DATE``.

    Raises:
        ValueError: a variable has a value that means nothing; names the variable.
    """
    data_dir = Path(variables.get("PINNERSAGE_DATA_DIR") or "data").absolute()
    source = variables.get("PINNERSAGE_SOURCE") or "simulated"
    if source not in SOURCES:
        raise ValueError(f"PINNERSAGE_SOURCE is {source!r}; it must be one of {', '.join(SOURCES)}")
    return Environment(data_dir, source, _start_date(variables, data_dir, source))


def _start_date(variables: Mapping[str, str], data_dir: Path, source: str) -> datetime.date:
    if text := variables.get("PINNERSAGE_START_DATE"):
        try:
            return datetime.date.fromisoformat(text)
        except ValueError as error:
            raise ValueError(f"PINNERSAGE_START_DATE is {text!r}; it must be a date such as 2026-01-31") from error
    if source == "landing":
        tables = (data_dir / "landing" / table for table in ("actions", "impressions", "board_pins", "pins"))
        folders = (folder for table in tables for folder in table.glob("dt=*") if folder.is_dir())
        return min(filter(None, map(_landed_day, folders)), default=SIMULATED_START_DATE)
    return SIMULATED_START_DATE


def _landed_day(folder: Path) -> datetime.date | None:
    """The day that a landing folder is named after; None for a name that no reader looks for, such as dt=latest."""
    try:
        day = datetime.date.fromisoformat(folder.name.removeprefix("dt="))
    except ValueError:
        return None
    return day if folder.name == f"dt={day}" else None
