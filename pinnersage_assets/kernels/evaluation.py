"""A bucket of users by whom models are judged (paper, section 5.3).

All kernels here read users from a file of `JudgedUsers.save`. What they share stands in their parameters:

``index``: what `open_index` takes, of the corpus that models know; ``searches_exactly``: whether all rows but one are
judged without it; ``alpha``; ``seed`` and ``day``, by which what is random is keyed; ``budget`` and
``relevance_cosine``, as of `RetrievalTask`; ``variants``: fields of a `Variant` by name; ``seeds``.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from pinnersage_assets.ann.index_files import open_index
from pinnersage_assets.ann.restricted import CorpusIndex, search_whole
from pinnersage_assets.model.diversity import diversity
from pinnersage_assets.model.judged_users import JudgedUsers, MomentsOfUsers
from pinnersage_assets.model.moments import (
    adjusted_rand_index,
    medoid_overlap,
    reclustered,
    sampled_at_moments,
    updated_online,
)
from pinnersage_assets.model.population import offsets_of, rows_of
from pinnersage_assets.model.ranking_metrics import Candidates, Negatives, best_cosines, draw_negatives, rank_metrics
from pinnersage_assets.model.retrieval_task import (
    RetrievalTask,
    SetCounts,
    judge_embeddings,
    judge_sets,
    judge_variants,
    popular_sets,
    random_sets,
)
from pinnersage_assets.model.selected_vectors import SelectedVectors
from pinnersage_assets.model.user_sets import Pairs
from pinnersage_assets.model.variants import (
    BY_INDEX,
    ONLINE,
    RECLUSTERED,
    VARIANTS,
    Clusters,
    UserEmbeddings,
    Variant,
)
from pinnersage_assets.vector_files import VectorFile

_Types = dict[str, type[pl.DataType] | pl.DataType]
_SET: _Types = {"user_id": pl.Int64, "model": pl.String, "seed": pl.Int32, "targets": pl.Int32}
_SET |= dict.fromkeys(("relevant", "recalled", "set_size"), pl.Int32)
_RANKED: _Types = {"user_id": pl.Int64, "model": pl.String, "seed": pl.Int32, "negatives": pl.String}
_RANKED |= {"actions": pl.Int64, "r_precision": pl.Float64, "reciprocal_rank": pl.Float64}
_RANKED |= {"drawn": pl.Int64, "padded": pl.Int64}
_COMPARED: _Types = {"user_id": pl.Int64, "moments": pl.Int64, "actions": pl.Int64}
_COMPARED |= {"adjusted_rand_index": pl.Float64, "medoid_overlap": pl.Float64}
COLUMNS: dict[str, _Types] = {
    "judge_candidate_sets": {**_SET, "rows": pl.List(pl.Int32)},
    "judge_grid": _SET,
    "judge_diversity": {**_SET, "diversity": pl.Float64, "action_diversity": pl.Float64},
    "rank_candidates": _RANKED,
    "compare_online": _COMPARED,
}
"""What each kernel writes."""

# Both models of moments are the row `pinnersage` but for what they know.
_AT_MOMENTS = Variant()


def judge_candidate_sets(source: Path, destination: Path, parameters: Mapping[str, Any]) -> int:
    """The candidate sets of all models, and what they foresaw (Table 4).

    Args:
        source: the users.
        destination: gets a row a set and user: user_id, model, seed, targets, relevant, recalled, set_size, and of the
            first seed the corpus rows of the set, null of others (of several sets in a day the last one).
        parameters: as above; ``recent_actions`` that the online model takes; ``popular``: a ``.npy`` file, for each
            seed corpus rows as of `popular_sets`; ``recommenders``: the names, by number, of what made the lists that
            were really recommended.

    Returns:
        The number of rows.
    """
    bucket = _Bucket(source, parameters)
    kept: dict[str, dict[int, NDArray[np.int32]]] = defaultdict(dict)

    def keep(model: str, seed: int, user: int, rows: NDArray[np.int64]) -> None:
        if seed == parameters["seed"]:
            kept[model][user] = np.sort(rows).astype(np.int32)

    controls = bucket.controls()
    judged = [
        bucket.judge(bucket.variants, bucket.search, keep),
        # A model that does not sample: all that differs is what the index misses.
        bucket.judge({BY_INDEX: VARIANTS["pinnersage_top_3"]}, bucket.search_index, keep),
        (list(controls), judge_sets(bucket.task, list(controls.values()))),
        bucket.judge_moments(keep),
    ]
    for (model, seed), pairs in controls.items():
        bounds = np.searchsorted(pairs.users, np.arange(len(bucket.users.user_ids) + 1))
        for user, rows in enumerate(np.split(pairs.rows, bounds[1:-1])):
            keep(model, seed, user, rows)
    frame = pl.concat(bucket.rows(sets, counts) for sets, counts in judged)
    sets = [_sets(bucket.users.user_ids, model, of_user) for model, of_user in kept.items()]
    first = pl.concat(sets).with_columns(seed=pl.lit(parameters["seed"], pl.Int32))
    return _write(
        frame.join(first, on=["user_id", "model", "seed"], how="left"), destination, COLUMNS["judge_candidate_sets"]
    )


def judge_grid(source: Path, destination: Path, parameters: Mapping[str, Any]) -> int:
    """What each of many variants foresaw.

    Args:
        source: the users.
        destination: gets user_id, model, seed, targets, relevant, recalled, set_size.
        parameters: as above.

    Returns:
        The number of rows.
    """
    bucket = _Bucket(source, parameters)
    return _write(bucket.rows(*bucket.judge(bucket.variants, bucket.search)), destination, COLUMNS["judge_grid"])


def judge_diversity(source: Path, destination: Path, parameters: Mapping[str, Any]) -> int:
    """As `judge_grid`, and how diverse each set is, and what the user did next (Figure 7).

    Args:
        source: the users.
        destination: as of `judge_grid`, and diversity and action_diversity, NaN of fewer than two pins.
        parameters: as above.

    Returns:
        The number of rows.
    """
    bucket = _Bucket(source, parameters)
    users, diversities = len(bucket.users.user_ids), {}

    def keep(model: str, seed: int, user: int, rows: NDArray[np.int64]) -> None:
        [diversities[model, user]] = diversity(Pairs(np.zeros(len(rows), np.int64), rows), bucket.index.vectors, 1)

    sets, counts = bucket.judge(bucket.variants, bucket.search, keep)
    targets = bucket.task.targets
    has_vector = np.flatnonzero(targets.vectors.any(axis=1))
    of_actions = diversity(Pairs(targets.users[has_vector], has_vector), targets.vectors, users)
    frame = bucket.rows(sets, counts).with_columns(
        diversity=pl.Series([diversities[model, user] for model, _ in sets for user in range(users)], dtype=pl.Float64),
        action_diversity=pl.Series(np.tile(of_actions, len(sets))),
    )
    return _write(frame, destination, COLUMNS["judge_diversity"])


def rank_candidates(source: Path, destination: Path, parameters: Mapping[str, Any]) -> int:
    """How high models rank what users did next (Table 5).

    Args:
        source: the users.
        destination: gets a row a model, seed, user and kind of negatives: user_id, model, seed, negatives, actions,
            r_precision, reciprocal_rank, drawn (negatives), padded (how many are random for want of impressions; null
            of other kinds).
        parameters: as above; ``negatives_per_action``; ``popularity``: a ``.npy`` file, (m,) actions of everybody on
            each corpus pin.

    Returns:
        The number of rows.
    """
    bucket = _Bucket(source, parameters)
    users, corpus_ids = bucket.users, bucket.index.ids
    ids, vectors = _pins_to_rank(bucket)
    wanted = np.full(len(users.target_rows), -1)
    has_vector = users.target_rows >= 0
    wanted[has_vector] = rows_of(ids, users.target_pin_ids[has_vector])
    shown = Pairs.of(users.shown_users, rows_of(ids, users.shown_pin_ids))
    in_corpus = np.isin(ids, corpus_ids, assume_unique=True)
    popularity = np.zeros(len(ids))
    popularity[in_corpus] = np.load(parameters["popularity"])
    seen = Pairs.of(users.seen_users, np.flatnonzero(in_corpus)[users.seen_corpus])
    nobody = Pairs(np.empty(0, np.int64), np.empty(0, np.int64))
    kinds = {
        "impressions": (shown, in_corpus.astype(float)),
        "random": (nobody, in_corpus.astype(float)),
        "popular": (nobody, popularity),
    }
    candidates, drawn = {}, []
    for kind, (impressions, pool) in kinds.items():
        negatives = draw_negatives(
            users.target_users,
            wanted,
            impressions,
            seen,
            pool,
            parameters["negatives_per_action"],
            users.user_ids,
            ids,
            bucket.key(parameters["seed"]),
        )
        candidates[kind] = Candidates.of(users.target_users, wanted, negatives.pairs)
        drawn.append(_drawn(users, kind, negatives))
    together, kind_of = Candidates.joined(list(candidates.values()))
    frames = [
        frame
        for model, variant in bucket.variants.items()
        for frame in _ranked(bucket, model, variant, candidates, together, kind_of, vectors)
    ]
    return _write(
        pl.concat(frames).join(pl.concat(drawn), on=["user_id", "negatives"]), destination, COLUMNS["rank_candidates"]
    )


def compare_online(source: Path, destination: Path, parameters: Mapping[str, Any]) -> int:
    """How far the online model finds what clustering everything anew would find.

    Args:
        source: the users.
        destination: gets user_id, moments (at which there was something new), actions (the most before one of them),
            adjusted_rand_index and medoid_overlap (means over these moments); no row of whom nothing new is known of.
        parameters: as above; ``recent_actions``.

    Returns:
        The number of rows.
    """
    bucket = _Bucket(source, parameters)
    at, moments = bucket.moments, len(bucket.moments.users)
    found = bucket.clusters_at_moments()
    rows = pl.DataFrame(
        {
            "user_id": bucket.users.user_ids[at.users],
            "actions": at.moments.actions_before,
            "adjusted_rand_index": adjusted_rand_index(found[ONLINE], found[RECLUSTERED], moments),
            "medoid_overlap": medoid_overlap(found[ONLINE], found[RECLUSTERED], moments),
        }
    )
    of_users = (
        rows.filter(pl.col("actions") > 0)
        .group_by("user_id", maintain_order=True)
        .agg(pl.len().alias("moments"), pl.col("actions").max(), pl.col("adjusted_rand_index", "medoid_overlap").mean())
    )
    return _write(of_users, destination, COLUMNS["compare_online"])


@dataclass(frozen=True)
class _Bucket:
    """Users, and what is asked of models; what a kernel does not need is not made."""

    source: Path
    parameters: Mapping[str, Any]

    @cached_property
    def users(self) -> JudgedUsers:
        return JudgedUsers.load(self.source)

    @cached_property
    def variants(self) -> dict[str, Variant]:
        return {name: Variant(**said) for name, said in self.parameters["variants"].items()}

    @cached_property
    def index(self) -> CorpusIndex:
        return open_index(self.parameters["index"])

    @cached_property
    def vectors(self) -> NDArray[np.float32]:
        """Of all pins, by the rows that users know."""
        return VectorFile.of(self.parameters["index"]["vectors"]).map()

    @cached_property
    def population(self) -> UserEmbeddings:
        return self.users.population(self.vectors, self.parameters["alpha"], self.key(self.parameters["seed"]))

    @cached_property
    def task(self) -> RetrievalTask:
        budget, relevance_cosine = (self.parameters[name] for name in ("budget", "relevance_cosine"))
        return self.users.task(self.vectors, self.index.vectors, budget, relevance_cosine)

    @cached_property
    def moments(self) -> MomentsOfUsers:
        return MomentsOfUsers.of(self.users, self.task)

    def key(self, seed: int) -> tuple[int, int]:
        """What is random belongs to these, and to the user."""
        return seed, self.parameters["day"]

    def search(self, queries: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        """The nearest corpus rows: in a corpus that is small enough exactly, otherwise by the index."""
        return search_whole(self.index, queries, k, self.parameters["searches_exactly"])

    def search_index(self, queries: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        return search_whole(self.index, queries, k)

    def judge(
        self,
        variants: Mapping[str, Variant],
        search: Callable[[NDArray[np.float32], int], NDArray[np.int64]],
        keep: Callable[[str, int, int, NDArray[np.int64]], object] | None = None,
    ) -> tuple[list[tuple[str, int]], SetCounts]:
        keys = {seed: self.key(seed) for seed in self.parameters["seeds"]}
        return judge_variants(self.population, self.users.user_ids, variants, keys, self.task, search, _unseen, keep)

    def clusters_at_moments(self) -> dict[str, Clusters]:
        """The clusters of each moment, by model.

        What the online model starts from is what `pinnersage` knows, made by the same α and λ, rather than the stored
        rows of users.medoids, whose parameters may be others: so the two differ by the update alone.
        """
        recent = self.parameters["recent_actions"]
        return {
            ONLINE: updated_online(self.population, self.moments.moments, _AT_MOMENTS, recent),
            RECLUSTERED: reclustered(self.population, self.moments.moments, _AT_MOMENTS),
        }

    def judge_moments(
        self, keep: Callable[[str, int, int, NDArray[np.int64]], object]
    ) -> tuple[list[tuple[str, int]], SetCounts]:
        """The online model, and the one that clusters anew, at all moments.

        Returns:
            The sets, and of each user what was relevant and recalled at all of its moments, and the mean size of the
            sets.
        """
        at, clusters, size = self.moments, self.clusters_at_moments(), _AT_MOMENTS.embeddings
        assert size is not None  # it samples
        sets = [(model, seed) for model in clusters for seed in self.parameters["seeds"]]
        selected = (
            sampled_at_moments(clusters[model], self.population, at.moments, size, self.key(seed))
            for model, seed in sets
        )
        counts = judge_embeddings(
            sets,
            [_AT_MOMENTS] * len(sets),
            selected,
            np.arange(len(at.users)),
            self.population.vectors,
            at.task,
            self.search,
            _unseen,
            lambda model, seed, moment, rows: keep(model, seed, int(at.users[moment]), rows),
        )
        return sets, counts.together(offsets_of(at.users))

    def controls(self) -> dict[tuple[str, int], Pairs]:
        """Sets that know nothing of the user: random ones, and the most popular pins, equals among them by chance.

        And what was really recommended.
        """
        seeds, user_ids = self.parameters["seeds"], self.users.user_ids.tolist()
        popular = np.load(self.parameters["popular"])
        return (
            {("random", seed): random_sets(self.task, [(*self.key(seed), user) for user in user_ids]) for seed in seeds}
            | {("popular", seed): popular_sets(self.task, most) for seed, most in zip(seeds, popular, strict=True)}
            | {
                (name, self.parameters["seed"]): self.users.recommended(number)
                for number, name in enumerate(self.parameters["recommenders"])
            }
        )

    def rows(self, sets: Sequence[tuple[str, int]], counts: SetCounts) -> pl.DataFrame:
        """A row a set and user."""
        users = self.users.user_ids
        targets = np.bincount(self.users.target_users, minlength=len(users))
        names, seeds = zip(*sets, strict=True)
        return pl.DataFrame(
            {
                "user_id": np.tile(users, len(sets)),
                "model": pl.Series(names).gather(np.repeat(np.arange(len(sets)), len(users))),
                "seed": np.repeat(np.array(seeds, dtype=np.int32), len(users)),
                "targets": np.tile(targets.astype(np.int32), len(sets)),
                **{name: array.ravel() for name, array in vars(counts).items()},
            }
        )


def _pins_to_rank(bucket: _Bucket) -> tuple[NDArray[np.int64], SelectedVectors]:
    """All pins that may be ranked, ascending: the corpus, what was shown, targets with a vector; and their vectors."""
    users, has_vector = bucket.users, bucket.users.target_rows >= 0
    others, first = np.unique(
        np.concatenate([users.shown_pin_ids, users.target_pin_ids[has_vector]]), return_index=True
    )
    rows = np.concatenate([users.shown_rows, users.target_rows[has_vector]])[first]
    corpus_ids, corpus_rows = np.load(bucket.parameters["index"]["pins"])
    ids, first = np.unique(np.concatenate([corpus_ids, others]), return_index=True)
    return ids, SelectedVectors(bucket.vectors, np.concatenate([corpus_rows, rows])[first])


def _drawn(users: JudgedUsers, kind: str, negatives: Negatives) -> pl.DataFrame:
    """Of each user how many negatives there are, and how many are random for want of impressions."""
    return pl.DataFrame(
        {
            "user_id": users.user_ids,
            "negatives": kind,
            "drawn": np.bincount(negatives.pairs.users, minlength=len(users.user_ids)),
            # The other kinds are random to begin with.
            "padded": negatives.from_pool if kind == "impressions" else None,
        },
        schema_overrides={"padded": pl.Int64},
    )


def _ranked(
    bucket: _Bucket,
    model: str,
    variant: Variant,
    candidates: dict[str, Candidates],
    together: Candidates,
    kind_of: NDArray[np.int64],
    vectors: SelectedVectors,
) -> list[pl.DataFrame]:
    """A row a seed and user for each kind of negatives; a cosine is computed once for all seeds and kinds."""
    user_ids = bucket.users.user_ids
    seeds = bucket.parameters["seeds"][: None if variant.selection == "sampled" else 1]
    chosen = [bucket.population.select(variant, bucket.key(seed)) for seed in seeds]
    owners = np.searchsorted(user_ids, np.concatenate([some.user_ids for some in chosen]))
    medoids = np.concatenate([some.medoid_rows for some in chosen])
    used = np.stack([owners, medoids], axis=1)
    different, first, which = np.unique(used, axis=0, return_index=True, return_inverse=True)
    embeddings = np.concatenate([some.vectors for some in chosen])[first]
    selections = np.zeros((len(seeds), len(different)), dtype=bool)
    selections[np.repeat(np.arange(len(seeds)), [len(some.user_ids) for some in chosen]), which] = True
    scores = best_cosines(together, vectors, different[:, 0], embeddings, selections)
    frames = []
    for number, (kind, own) in enumerate(candidates.items()):
        found = rank_metrics(own, scores[:, kind_of == number], len(user_ids))
        frames.append(
            pl.DataFrame(
                {
                    "user_id": np.tile(user_ids, len(seeds)),
                    "model": model,
                    "seed": np.repeat(np.array(seeds, dtype=np.int32), len(user_ids)),
                    "negatives": kind,
                    "actions": np.tile(found.actions, len(seeds)),
                    "r_precision": found.r_precision.ravel(),
                    "reciprocal_rank": found.reciprocal_rank.ravel(),
                }
            )
        )
    return frames


def _sets(user_ids: NDArray[np.int64], model: str, of_user: Mapping[int, NDArray[np.int32]]) -> pl.DataFrame:
    """The set of each user as a list."""
    bounds = np.cumsum([0, *map(len, of_user.values())])
    lists = pa.LargeListArray.from_arrays(bounds, np.concatenate(list(of_user.values())))
    return pl.DataFrame({"user_id": user_ids[list(of_user)], "model": model, "rows": pl.Series(lists)})


def _write(frame: pl.DataFrame, destination: Path, columns: _Types) -> int:
    frame = frame.select(pl.col(name).cast(kind) for name, kind in columns.items())
    frame.write_parquet(destination, compression="lz4")
    return len(frame)


def _unseen(done: int, total: int) -> None:
    """Progress inside a bucket is nobody's business."""
