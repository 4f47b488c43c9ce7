"""Models judged on the last pins of boards, through the real asset, against plain loops over the edges."""

import datetime
import importlib
from collections import Counter, defaultdict

import numpy as np
import polars as pl
import pytest
from conftest import LAST
from oracle import Oracle
from world import failures, small_settings

from pinnersage_assets.lineage.evaluation import HIT_RATES_ARE_SHARES
from pinnersage_assets.settings import EngineSettings

# The package has the asset under the name of its module.
module = importlib.import_module("pinnersage_assets.lineage.evaluation.board_holdout")
TABLE = "evaluation.board_holdout"
YESTERDAY = LAST - datetime.timedelta(days=1)
DEPTHS = (10, 100, 1000)


def settings_of(**evaluation):
    return small_settings(window={"days": 8}, simulation={"users": 120}, evaluation={"users": 1000, **evaluation})


def made_again(copy, day=LAST):
    """The rows of a day, and what its run says of them."""
    result = copy.run("daily", day, only=[TABLE])
    assert failures(result) == {}
    [made] = result.asset_materializations_for_node("evaluation__board_holdout")
    return copy.partition(TABLE, day), {name: entry.value for name, entry in made.metadata.items()}


@pytest.fixture(scope="module")
def group_of(world):
    """Of each pin that repeats another, that one."""
    return dict(world.read("SELECT pin_id, canonical_pin_id FROM corpus.near_duplicates").rows())


@pytest.fixture(scope="module")
def saved(world, group_of):
    """By board and pin, near-duplicates being one, when first, and by whom."""
    first = {}
    edges = world.read("SELECT board_id, pin_id, first_ts, user_id FROM graph.edges WHERE dt = $day", day=LAST)
    for board, pin, ts, user in edges.sort("first_ts", descending=True).rows():
        first[board, group_of.get(pin, pin)] = ts, user
    return first


@pytest.fixture(scope="module")
def grown(saved):
    """Of each board that got a pin on the last day and had another its pins, the latest first: pin, time, user."""
    boards = defaultdict(list)
    for (board, pin), (ts, user) in saved.items():
        boards[board].append((pin, ts, user))
    boards = {board: sorted(edges, key=lambda edge: edge[1])[::-1] for board, edges in boards.items()}
    grown = {board: edges for board, edges in boards.items() if edges[0][1].date() == LAST and len(edges) > 1}
    # Nothing is up to chance.
    assert all(edges[0][1] > edges[1][1] for edges in grown.values())
    return grown


@pytest.fixture(scope="module")
def yesterday(world):
    return Oracle(world, YESTERDAY)


@pytest.fixture(scope="module")
def corpus(yesterday, group_of):
    """What may be recommended, by what it is in the graph."""
    return [group_of.get(pin, pin) for pin in yesterday.corpus]


@pytest.fixture(scope="module")
def known(world, saved):
    """Pins of the edges that were known yesterday."""
    pins = set(world.read("SELECT pin_id FROM raw.pins WHERE dt <= $day", day=YESTERDAY)["pin_id"])
    return [pin for (_, pin), (ts, _) in saved.items() if ts.date() <= YESTERDAY and pin in pins]


@pytest.fixture(scope="module")
def rows(world):
    return world.partition(TABLE, LAST)


def hits_of(rows, model, graph="none"):
    return [rows.filter(model=model, graph=graph, k=k)["hits"].item() for k in DEPTHS]


def hits_among(lists, grown):
    """How many held-out pins stand among the first of what is recommended, by depth; that leaves out what is there."""
    counts = dict.fromkeys(DEPTHS, 0)
    for board, recommended in lists.items():
        (held_out, *_), *before = grown[board]
        new = [pin for pin in recommended if pin not in {pin for pin, *_ in before}]
        for depth in DEPTHS:
            counts[depth] += held_out in new[:depth]
    return list(counts.values())


def test_there_is_a_row_a_model_graph_and_depth(rows, grown):
    walks = ["pixie", "pixie_without_booster", "pixie_without_weights", "pixie_without_bias"]
    models = [(model, graph) for model in walks for graph in ("full", "pruned")]
    models += [(model, "none") for model in ("embedding_neighbours", "popular", "random")]
    assert sorted(rows.select("model", "graph", "k").rows()) == sorted((*of, k) for of in models for k in DEPTHS)
    assert set(rows["boards"]) == {len(grown)}
    assert len(grown) > 30
    assert rows["hit_rate"].to_list() == (rows["hits"] / rows["boards"]).to_list()
    between = (pl.col("low") <= pl.col("hit_rate")) & (pl.col("hit_rate") <= pl.col("high"))
    assert rows.select((between & pl.col("low").is_between(0, 1) & pl.col("high").is_between(0, 1)).all()).item()
    for row in rows.to_dicts():
        compared_with = rows.filter(model="pixie", graph="full", k=row["k"])["hit_rate"].item()
        assert row["difference"] == pytest.approx(row["hit_rate"] - compared_with)
        assert row["difference_low"] <= row["difference"] + 1e-12
        assert row["difference_high"] >= row["difference"] - 1e-12
    paper = rows.drop_nulls("paper_hit_rate").sort("k")
    assert paper.select("model", "graph", "paper_hit_rate").rows() == [
        ("pixie", "pruned", rate) for rate in (0.063, 0.231, 0.522)
    ]


def test_neighbours_are_those_of_the_mean_of_the_latest_pins(rows, grown, corpus, yesterday, world):
    vectors, of_corpus = Oracle(world, LAST).pins, yesterday.corpus_vectors
    lists = {}
    for board, (_, *before) in grown.items():
        mean = np.mean([vectors[pin][1] for pin, *_ in before[:20]], axis=0)
        lists[board] = np.array(corpus)[np.argsort(-of_corpus @ mean, kind="stable")].tolist()
    assert hits_of(rows, "embedding_neighbours") == hits_among(lists, grown)


def test_popular_pins_are_on_most_boards_as_of_the_day_before(rows, grown, corpus, known):
    degrees = Counter(known)
    # The equally popular stand in an order that is up to chance: so a hit may be one of so many.
    sets = [set(), set()]
    for strict in (False, True):
        for board, ((held_out, *_), *before) in grown.items():
            if held_out in corpus:
                others = set(corpus) - {pin for pin, *_ in before} - {held_out}
                own = degrees.get(held_out, 0)
                above = sum(degrees.get(pin, 0) >= own if strict else degrees.get(pin, 0) > own for pin in others)
                if above < 10:
                    sets[strict].add(board)
    assert len(sets[True]) <= hits_of(rows, "popular")[0] <= len(sets[False])


def test_pixie_finds_more_than_chance_and_random_ranks_no_more(rows):
    pixie, random = hits_of(rows, "pixie", "full"), hits_of(rows, "random")
    assert pixie[0] > random[0]
    assert pixie[1] > 2 * random[1]
    assert pixie == sorted(pixie)


def test_the_curve_has_a_graph_for_each_exponent_and_all_else_stays(world, rows, grown, corpus, known, tmp_path):
    copy = world.copy(tmp_path / "data", settings_of(degree_exponents=[0.5, 0.91, 1.0]))
    found, metadata = made_again(copy)
    curve = found.filter(model="pixie", graph="pruned", k=10).sort("degree_exponent")
    assert curve["degree_exponent"].to_list() == [0.5, 0.91, 1.0]
    for name in ("edges", "bytes"):
        assert curve[name].is_sorted()
        assert curve[name].n_unique() > 1
    [full] = set(found.filter(graph="full")["edges"])
    assert curve["edges"].max() < full
    keys = ["model", "graph", "degree_exponent", "k"]
    assert rows.sort(keys).equals(found.join(rows, on=keys, how="semi", nulls_equal=True).sort(keys))
    assert full == len(known)
    held_out = {edges[0][0] for edges in grown.values()}
    missing = [sum(edges[0][0] not in pins for edges in grown.values()) for pins in (corpus, known)]
    assert [metadata[f"held-out pins not in the {name}"] for name in ("corpus", "graph")] == missing
    assert 0 < missing[0] < len(held_out)


def test_boards_and_query_pins_are_as_many_as_settings_say(world, grown, tmp_path):
    copy = world.copy(tmp_path / "data", settings_of(boards=10, query_pins=1))
    rows, metadata = made_again(copy)
    assert set(rows["boards"]) == {metadata["boards judged"]} == {10}
    assert metadata["boards that grew"] - metadata["boards with one pin, not judged"] == len(grown)


@pytest.mark.parametrize(
    "gone", ["true", "first_ts >= dt", "first_ts < dt"], ids=["no edges", "nothing new", "nothing known"]
)
def test_where_no_board_can_be_judged_there_are_no_rows(world, tmp_path, gone):
    copy = world.copy(tmp_path / "data")
    copy.execute(f"DELETE FROM graph.edges WHERE {gone}")
    rows, metadata = made_again(copy)
    assert (len(rows), metadata["boards judged"]) == (0, 0)


def test_sessions_are_judged_by_their_own_first_pins(world, tmp_path):
    """All that a session has is of its day: here the boards of the last day are new."""
    copy = world.copy(tmp_path / "data")
    copy.execute("UPDATE graph.edges SET board_id = hash(board_id) >> 1 WHERE first_ts >= $day", day=LAST)
    rows, metadata = made_again(copy)
    assert 0 < metadata["boards judged"] < metadata["boards that grew"]
    assert rows.filter(model="pixie", graph="full", k=1000)["hits"].item() > 0


@pytest.mark.parametrize("wrong", ["hit_rate = 1.1", "low = -0.1", "hits = 0 WHERE k = 1000", "hits = boards + 1"])
def test_hit_rates_that_cannot_be_are_found(world, tmp_path, wrong):
    copy = world.copy(tmp_path / "data")
    copy.execute(f"UPDATE {TABLE} SET {wrong}")
    with copy.warehouse.get_reader() as connection:
        found = connection.execute(HIT_RATES_ARE_SHARES.failures, {"first": LAST, "last": LAST}).fetchall()
    assert found
    assert world.status(TABLE, LAST) == "passed"


def test_neither_buckets_nor_processes_make_a_difference(world, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BOARDS_A_BUCKET", 20)
    settings = settings_of().model_copy(update={"engine": EngineSettings(kind="processes", workers=2)})
    found, _ = made_again(world.copy(tmp_path / "data", settings))
    assert found.equals(rows)
