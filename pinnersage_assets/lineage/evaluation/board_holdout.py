"""``evaluation.board_holdout``: the last pins of boards, held out (Eksombatchai et al., "Pixie", 2018, section 4).

What models know is as of the day before the horizon, as everywhere in the evaluation. What they begin with is what was
on the board before the pin that is held out: so sessions, which are of one day, can be judged too.
"""

import datetime
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
from numpy.typing import NDArray

from pinnersage_assets.engines.resource import EngineResource
from pinnersage_assets.graph_files import write_graph
from pinnersage_assets.lineage.by_bucket import map_buckets
from pinnersage_assets.lineage.corpus_index import describe_corpus_index
from pinnersage_assets.lineage.evaluation.knowledge import knows_the_future
from pinnersage_assets.lineage.graph_snapshot import FULL, PRUNED, GraphContent, categories_of
from pinnersage_assets.lineage.queries import CANONICAL_PINS
from pinnersage_assets.model.board_holdout import NOT_FOUND, JudgedBoards
from pinnersage_assets.model.bootstrap import difference_intervals
from pinnersage_assets.model.diversity import most_popular_rows
from pinnersage_assets.model.pin_board_graph import PinBoardGraph
from pinnersage_assets.model.pixie import PixieParameters
from pinnersage_assets.model.randomness import keyed_sample
from pinnersage_assets.partitions import DAILY, HISTORY, KNOWN_DAY, SAME_DAY, partition_day, reads
from pinnersage_assets.progress import log_progress
from pinnersage_assets.settings import Settings
from pinnersage_assets.warehouse.buckets import Bucket
from pinnersage_assets.warehouse.checks import PartitionCheck
from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.partitions import scratch_folder
from pinnersage_assets.warehouse.pin_vectors import PinVectors, pin_vectors

# Near-duplicates are one pin, as in the graph: what was saved of a group is saved when the first of it is.
_SAVED = f"""
    SELECT board_id, coalesce(canonical_pin_id, pin_id) AS pin_id, arg_min(user_id, (first_ts, pin_id)) AS user_id,
        min(first_ts) AS ts
    FROM graph.edges LEFT JOIN ({CANONICAL_PINS.replace("$day", "$today")}) USING (pin_id)
    WHERE dt = $today GROUP BY ALL
"""
# The boards that got a pin after the known day, and all that is on some boards.
_GROWN = f"SELECT board_id, count(*) AS pins FROM ({_SAVED}) GROUP BY board_id HAVING max(ts) >= $day + INTERVAL 1 DAY"
_OF_BOARDS = f"""
    SELECT board_id, pin_id, user_id, epoch(ts) / 86400 AS days FROM ({_SAVED})
    WHERE board_id IN (SELECT unnest($boards))
"""
# The graph as of the known day, but for what leaves it as the days that make it up move on to today.
_EDGES = f"""
    SELECT pin_id, board_id FROM ({_SAVED}) WHERE ts < $day + INTERVAL 1 DAY
        AND pin_id IN (SELECT pin_id FROM staging.pins WHERE dt <= $day) ORDER BY ALL
"""
# What the corpus pins of a day are in the graph.
_CORPUS = f"""
    SELECT coalesce(canonical_pin_id, pin_id) AS of_graph FROM corpus.pins LEFT JOIN ({CANONICAL_PINS}) USING (pin_id)
    WHERE dt = $day ORDER BY pin_id
"""

_HIT_RATES_AT = (10, 100, 1000)
_NO_GRAPH = "none"
# Of the paper's Pixie (Table 1), which walks on the pruned graph.
_PAPER = dict(zip(_HIT_RATES_AT, (0.063, 0.231, 0.522), strict=True))

# How often a step keeps to the category where what is recommended is made without that.
_BIAS = 0.9
# Boards of a task: a second of work and more.
_BOARDS_A_BUCKET = 100

_COLUMNS: dict[str, type[pl.DataType]] = {"model": pl.String, "graph": pl.String, "degree_exponent": pl.Float64}
_COLUMNS |= {"edges": pl.Int64, "bytes": pl.Int64, "k": pl.Int32, "hits": pl.Int64, "boards": pl.Int64}
_COLUMNS |= dict.fromkeys(("hit_rate", "low", "high"), pl.Float64)
_COLUMNS |= dict.fromkeys(("difference", "difference_low", "difference_high"), pl.Float64)
_COLUMNS |= {"paper_hit_rate": pl.Float64}

HIT_RATES_ARE_SHARES = PartitionCheck(
    "hit_rates_are_shares",
    "Hit rates, and their intervals, are from 0 to 1, and no lower where more pins are recommended.",
    """
    WITH compared AS (
        SELECT *, lag(hits, 1, 0) OVER (PARTITION BY dt, model, graph, degree_exponent ORDER BY k) AS hits_before
        FROM evaluation.board_holdout WHERE dt BETWEEN $first AND $last
    )
    SELECT dt, model, graph, degree_exponent, k, hits, boards, hit_rate, low, high FROM compared
    WHERE NOT (hit_rate BETWEEN 0 AND 1) OR NOT (low BETWEEN 0 AND 1) OR NOT (high BETWEEN 0 AND 1)
        OR hits < hits_before OR hits > boards
    """,
)


@dg.asset(
    key=["evaluation", "board_holdout"],
    partitions_def=DAILY,
    deps=[
        *reads(KNOWN_DAY, "corpus.pins", "retrieval.hnsw_index"),
        *reads(SAME_DAY, "graph.edges"),
        *reads(HISTORY, "staging.pins", "corpus.near_duplicates"),
    ],
    kinds={"numpy"},
    code_version="1",
)
def board_holdout(
    context: dg.AssetExecutionContext, warehouse: Warehouse, settings: Settings, engine: EngineResource
) -> dg.MaterializeResult[pl.DataFrame]:
    """Whether Pixie, in parts and on pruned graphs, and others would have recommended what boards got next."""
    today = partition_day(context)
    day = today - datetime.timedelta(days=settings.evaluation.horizon_days)
    keys = settings.seed, today.toordinal()
    with warehouse.get_reader():
        edges = warehouse.read(_EDGES, {"day": day, "today": today})
        boards, metadata = _boards_to_judge(warehouse, settings, day, today, edges, keys)
        if not len(boards):
            return dg.MaterializeResult(value=pl.DataFrame(schema=_COLUMNS), metadata=metadata)
        pins, features = pin_vectors(warehouse, today), boards.features(categories_of(warehouse, today, boards.pin_ids))
        graphs = _graphs(GraphContent.of_edges(warehouse, day, edges), settings)
        corpus = warehouse.read(_CORPUS, {"day": day})["of_graph"].to_numpy()
    metadata["held-out pins not in the corpus"] = int(np.count_nonzero(~np.isin(boards.held_out, corpus)))
    on_boards = np.isin(boards.held_out, graphs[FULL].pins_and_boards.pin_ids)
    metadata["held-out pins not in the graph"] = int(np.count_nonzero(~on_boards))
    with scratch_folder(warehouse) as folder:
        index = describe_corpus_index(warehouse, day, folder, context.log)
        for name, graph in graphs.items():
            write_graph(folder / f"{name}.graph", graph.pins_and_boards)
        np.save(folder / "corpus.npy", corpus)
        np.save(folder / "popular.npy", _popular(graphs[FULL].pins_and_boards, np.sort(corpus), boards, keys))
        parameters = {
            "keys": keys,
            "index": index,
            "searches_exactly": len(corpus) <= settings.evaluation.exact_up_to,
            "depth": max(_HIT_RATES_AT),
            "corpus": str(folder / "corpus.npy"),
            "popular": str(folder / "popular.npy"),
            "graphs": {name: str(folder / f"{name}.graph") for name in graphs},
            "decay_per_day": settings.pixie.decay_per_day,
            "walks": [
                (model, name, equal, asdict(walk))
                for model, (walk, equal) in _walks(settings).items()
                for name, graph in graphs.items()
                if model == "pixie" or not graph.of_curve
            ],
        }
        found = map_buckets(
            engine.get_engine(),
            "pinnersage_assets.kernels.boards:rank_held_out",
            _write_buckets(boards, pins, features, folder),
            parameters,
            folder / "found",
            log_progress(context.log, "buckets of boards"),
            keeps_rows=False,
        )
        ranks = pl.concat(pl.read_parquet(file, hive_partitioning=False) for file in found)
    return dg.MaterializeResult(value=_hit_rates(ranks, graphs, keys), metadata=metadata)


@dataclass(frozen=True)
class _Graph:
    """A graph that Pixie walks on, and how it was pruned."""

    pins_and_boards: PinBoardGraph
    kind: str
    degree_exponent: float | None
    of_curve: bool
    """Whether it is only there for the curve over δ."""


def _boards_to_judge(
    warehouse: Warehouse,
    settings: Settings,
    day: datetime.date,
    today: datetime.date,
    edges: pl.DataFrame,
    keys: tuple[int, int],
) -> tuple[JudgedBoards, dict[str, int]]:
    """Boards that got a pin after the known day and had another before, sampled by seed; and the counts of others.

    None on the first days, where no edges are known, nor where embeddings were fitted to what is held out.
    """
    grown = warehouse.read(_GROWN, {"day": day, "today": today})
    if edges.is_empty() or knows_the_future(warehouse, day + datetime.timedelta(days=1)):
        grown = grown.clear()
    several = grown.filter(pl.col("pins") > 1)["board_id"].to_numpy()
    judged = keyed_sample(several, settings.evaluation.boards, "judged boards", *keys)
    rows = warehouse.read(_OF_BOARDS, {"today": today, "boards": judged.tolist()})
    columns = [rows[name].to_numpy() for name in ("board_id", "pin_id", "user_id", "days")]
    boards = JudgedBoards.of(*columns, settings.evaluation.query_pins, keys)
    return boards, {
        "boards that grew": len(grown),
        "boards with one pin, not judged": len(grown) - len(several),
        "boards judged": len(judged),
    }


def _walks(settings: Settings) -> dict[str, tuple[PixieParameters, bool]]:
    """Pixie with all its parts, whichever are switched off in what is recommended, and without one of them.

    And whether query pins weigh the same.
    """
    walk = replace(settings.pixie.parameters(), scaled=True, boosted=True, bias=settings.pixie.bias or _BIAS)
    return {
        "pixie": (walk, False),
        "pixie_without_booster": (replace(walk, boosted=False), False),
        "pixie_without_weights": (replace(walk, scaled=False), True),
        "pixie_without_bias": (replace(walk, bias=0.0), False),
    }


def _graphs(content: GraphContent, settings: Settings) -> dict[str, _Graph]:
    """The graph, pruned, and pruned by other δ for the curve; by name."""
    in_use, others = settings.graph.degree_exponent, settings.evaluation.degree_exponents
    largest_entropy = content.largest_entropy(settings.graph.diverse_share)
    graphs = {FULL: _Graph(content.graph(math.inf, 1.0)[0], FULL, None, of_curve=False)}
    wanted = {in_use: PRUNED} | {exponent: f"{PRUNED}-{exponent:g}" for exponent in others if exponent != in_use}
    for exponent, name in wanted.items():
        graph, _ = content.graph(largest_entropy, exponent)
        graphs[name] = _Graph(graph, PRUNED, exponent, of_curve=name != PRUNED)
    return graphs


def _popular(
    graph: PinBoardGraph, corpus: NDArray[np.int64], boards: JudgedBoards, keys: tuple[int, int]
) -> NDArray[np.int64]:
    """The corpus pins that are on most boards, as many as any board can need."""
    rows = graph.pin_rows(corpus)
    degrees = np.zeros(len(corpus), dtype=np.int64)
    degrees[rows >= 0] = graph.degrees(rows[rows >= 0])
    size = max(_HIT_RATES_AT) + boards.most_on_a_board()
    return corpus[most_popular_rows(degrees, ("popular on boards", *keys), size)]


def _write_buckets(boards: JudgedBoards, pins: PinVectors, features: NDArray[np.int64], folder: Path) -> list[Bucket]:
    buckets = []
    bounds = np.linspace(0, len(boards), -(-len(boards) // _BOARDS_A_BUCKET) + 1).astype(int)
    for number, (first, last) in enumerate(pairwise(bounds.tolist())):
        part, path = boards.part(first, last), folder / f"{number:06}.npz"
        centres = part.centres(pins.select(part.pin_ids[part.is_query])[:])
        np.savez(path, allow_pickle=False, **part.arrays, features=features[first:last], centres=centres)
        buckets.append(Bucket(str(number), path, len(part)))
    return buckets


def _hit_rates(ranks: pl.DataFrame, graphs: Mapping[str, _Graph], keys: tuple[int, int]) -> pl.DataFrame:
    """A row a model, graph and k; intervals resample users with all their boards."""
    wide = ranks.with_columns(column=pl.concat_str("model", "graph", separator="/")).pivot(
        "column", index=["board_id", "user_id"], values="rank", maintain_order=True
    )
    owners, board_ids = wide["user_id"].to_numpy(), wide["board_id"].to_numpy()
    names = wide.columns[2:]
    found = wide.select(names).to_numpy()
    compared_with, rows = names.index(f"pixie/{FULL}"), []
    for k in _HIT_RATES_AT:
        hits = ((found != NOT_FOUND) & (found <= k)).astype(np.float64)
        # Rates are differences from a model that finds nothing.
        scores = np.column_stack([np.zeros(len(hits)), hits])
        rates = difference_intervals(owners, board_ids, scores, 0, keys)
        others = difference_intervals(owners, board_ids, hits, compared_with, keys)
        for column, name in enumerate(names):
            model, _, name_of_graph = name.partition("/")
            graph = graphs.get(name_of_graph)
            arrays = graph.pins_and_boards.arrays.values() if graph else ()
            in_paper = model == "pixie" and name_of_graph == PRUNED
            rows.append(
                {
                    "model": model,
                    "graph": graph.kind if graph else _NO_GRAPH,
                    "degree_exponent": graph.degree_exponent if graph else None,
                    "edges": graph.pins_and_boards.n_edges if graph else None,
                    "bytes": sum(array.nbytes for array in arrays) if graph else None,
                    "k": k,
                    "hits": int(hits[:, column].sum()),
                    "boards": len(hits),
                    "hit_rate": hits[:, column].mean(),
                    "low": rates.lows[1 + column],
                    "high": rates.highs[1 + column],
                    "difference": others.differences[column],
                    "difference_low": others.lows[column],
                    "difference_high": others.highs[column],
                    "paper_hit_rate": _PAPER[k] if in_paper else None,
                }
            )
    # Of one user there are no intervals.
    ends = ("low", "high", "difference_low", "difference_high")
    return pl.DataFrame(rows, schema=_COLUMNS).with_columns(pl.col(ends).fill_nan(None))
