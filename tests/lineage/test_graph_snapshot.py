"""The graph of a day as files: against plain loops over its edges, kept while they are right, and mended if not."""

import math
from collections import Counter, defaultdict
from logging import WARNING

import numpy as np
import pytest
from conftest import LAST
from world import PINS_WRITTEN_ANEW, failures, small_settings

from pinnersage_assets.graph_files import open_graph
from pinnersage_assets.lineage.graph_snapshot import delete_unnamed_graphs

EDGES, SNAPSHOT, WALKS = "graph.edges", "graph.snapshot", "retrieval.pixie_recommendations"
BLEND = "retrieval.blended_recommendations"


def settings_of(**graph):
    return small_settings(window={"days": 8}, simulation={"users": 120}, evaluation={"users": 1000}, graph=graph)


def remake(world, *tables, day=LAST):
    """Make some tables again, with their checks; the warnings."""
    result = world.run("daily", day, only=tables or [SNAPSHOT])
    assert failures(result) == {}
    assert all(check.passed for check in result.get_asset_check_evaluations())
    logs = world.instance.all_logs(result.run_id)
    return [log.user_message for log in logs if log.level >= WARNING and not log.dagster_event]


def rows_of(world, day=LAST):
    """By graph, its row."""
    rows = world.read(f"FROM {SNAPSHOT} WHERE dt = $day ORDER BY graph", day=day).to_dicts()
    assert [row["graph"] for row in rows] == ["full", "pruned"]
    return {row["graph"]: row for row in rows}


def graph_of(world, name, day=LAST):
    row = rows_of(world, day)[name]
    return open_graph(world.data / row["path"], row["sha256"])


def boards_of(graph):
    """By pin, its boards."""
    return {
        int(pin): set(graph.board_ids[graph.pin_boards[first:end]].tolist())
        for pin, first, end in zip(graph.pin_ids, graph.pin_offsets[:-1], graph.pin_offsets[1:], strict=True)
    }


@pytest.fixture(scope="module")
def saved(world):
    """By pin, its boards, of near-duplicates those of all; from the edges."""
    first = dict(
        world.read("SELECT pin_id, canonical_pin_id FROM corpus.near_duplicates WHERE dt <= $day", day=LAST).rows()
    )
    found = defaultdict(set)
    for pin, board in world.partition(EDGES, LAST).select("pin_id", "board_id").rows():
        found[first.get(pin, pin)].add(board)
    assert len(found) < world.partition(EDGES, LAST)["pin_id"].n_unique()
    return dict(found)


@pytest.fixture(scope="module")
def categories(world):
    return dict(world.read("SELECT pin_id, category FROM staging.pins WHERE dt <= $day", day=LAST).rows())


# --- What it holds


def test_the_full_graph_is_the_edges_with_repeats_as_one_pin(world, saved):
    row, graph = rows_of(world)["full"], graph_of(world, "full")
    assert boards_of(graph) == saved
    assert (row["pins"], row["edges"]) == (len(saved), sum(map(len, saved.values())))
    assert row["boards"] == len(set().union(*saved.values()))
    assert row["bytes"] == (world.data / row["path"]).stat().st_size
    assert (row["diverse_boards"], row["diverse_edges"], row["far_edges"], row["largest_entropy"]) == (0, 0, 0, None)


def test_the_pruned_graph_lacks_the_boards_about_anything_and_the_edges_to_unlike_boards(world, saved, categories):
    row, kept = rows_of(world)["pruned"], boards_of(graph_of(world, "pruned"))
    topics = defaultdict(Counter)
    for pin, boards in saved.items():
        for board in boards:
            topics[board][categories[pin]] += 1
    entropies = {
        board: -sum(n / of.total() * math.log(n / of.total()) for n in of.values()) for board, of in topics.items()
    }
    limit = np.quantile(list(entropies.values()), 0.9)
    assert row["largest_entropy"] == pytest.approx(limit)
    gone = {board for board, entropy in entropies.items() if entropy > limit + 1e-9}
    assert 0 < len(gone) == row["diverse_boards"]
    assert not gone & set().union(*kept.values())
    left = {pin: boards - gone for pin, boards in saved.items()}
    assert row["diverse_edges"] == sum(len(boards & gone) for boards in saved.values())
    # On which boards pins stay is the business of the tests of pruning.
    assert {pin: len(boards) for pin, boards in kept.items()} == {
        pin: math.ceil(len(boards) ** 0.91 - 1e-9) for pin, boards in left.items() if boards
    }
    assert row["far_edges"] == sum(map(len, left.values())) - row["edges"]
    assert (row["topics"], row["degree_exponent"]) == ("category", 0.91)


def test_the_feature_of_a_pin_is_a_number_of_its_category(world, saved, categories):
    graph = graph_of(world, "full")
    codes = dict(
        world.read("SELECT DISTINCT category, (md5_number_lower(category) >> 1)::BIGINT FROM staging.pins").rows()
    )
    assert graph.feature_codes.tolist() == sorted({codes[categories[pin]] for pin in saved})
    fitting = 0
    for code in graph.feature_codes.tolist():
        for board, start, length in zip(*graph.runs_of(code), strict=True):
            first = graph.board_offsets[board] + start
            pins = graph.pin_ids[graph.board_pins[first : first + length]].tolist()
            assert {codes[categories[pin]] for pin in pins} == {code}
            fitting += length
    assert fitting == graph.n_edges


def test_pruning_can_be_switched_off(world, tmp_path):
    copy = world.copy(tmp_path / "data", settings_of(diverse_share=0.0, degree_exponent=1.0))
    remake(copy)
    rows = rows_of(copy)
    assert rows["pruned"]["sha256"] == rows["full"]["sha256"] == rows_of(world)["full"]["sha256"]


def test_without_categories_topics_are_clusters_of_embeddings_and_pins_have_no_feature(world, tmp_path):
    copy = world.copy(tmp_path / "data")
    copy.execute("UPDATE staging.pins SET category = NULL", PINS_WRITTEN_ANEW)
    remake(copy)
    rows = rows_of(copy)
    assert {row["topics"] for row in rows.values()} == {"clusters"}
    assert rows["pruned"]["diverse_boards"] > 0
    assert graph_of(copy, "full").feature_codes.tolist() == []
    assert boards_of(graph_of(copy, "full")) == boards_of(graph_of(world, "full"))
    # The same clusters a second time.
    copy.execute(f"DELETE FROM {SNAPSHOT}")
    remake(copy)
    assert rows_of(copy) == rows


# --- Files


def test_a_rerun_keeps_files_while_they_are_right(world, tmp_path):
    copy = world.copy(tmp_path / "data")
    before, files = rows_of(copy), sorted((copy.data / "graph").glob("dt=*/*"))
    stamps = [file.stat().st_mtime_ns for file in files]
    assert remake(copy) == []
    assert rows_of(copy) == before
    assert sorted((copy.data / "graph").glob("dt=*/*")) == files
    assert [file.stat().st_mtime_ns for file in files] == stamps


@pytest.mark.parametrize("how", ["deleted", "damaged"])
def test_a_file_that_came_to_harm_is_replaced_with_a_warning(world, tmp_path, how):
    copy = world.copy(tmp_path / "data")
    before = rows_of(copy)
    file = copy.data / before["pruned"]["path"]
    harm(file, how)
    [warning] = remake(copy)
    assert f"{file} is {'missing' if how == 'deleted' else 'damaged'}" in warning
    assert "it is made again" in warning
    assert rows_of(copy) == before
    assert graph_of(copy, "pruned").n_edges == before["pruned"]["edges"]


def harm(file, how):
    if how == "deleted":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-8] + bytes(8 * [255]))


def test_other_edges_or_settings_are_another_file_and_the_one_before_stays(world, tmp_path):
    copy = world.copy(tmp_path / "data", settings_of(diverse_share=0.0, degree_exponent=0.6))
    before = rows_of(copy)
    remake(copy)
    assert rows_of(copy)["full"] == before["full"]
    assert rows_of(copy)["pruned"]["path"] != before["pruned"]["path"]
    pruned = rows_of(copy)["pruned"]
    assert (pruned["diverse_boards"], pruned["largest_entropy"], pruned["degree_exponent"]) == (0, None, 0.6)
    assert pruned["far_edges"] > before["pruned"]["far_edges"]
    copy.execute(f"DELETE FROM {EDGES} WHERE dt = $day AND pin_id % 2 = 0", day=LAST)
    remake(copy)
    assert rows_of(copy)["full"]["path"] != before["full"]["path"]
    for row in before.values():
        assert open_graph(copy.data / row["path"], row["sha256"]).n_edges == row["edges"]


def test_walks_go_on_without_the_file_and_a_warning_says_how_to_get_another(world, tmp_path):
    copy = world.copy(tmp_path / "data")
    harm(copy.data / rows_of(copy)["pruned"]["path"], "damaged")
    for said in ("is damaged", "was deleted, being older than retention.graph_days"):
        [warning] = remake(copy, WALKS)
        assert said in warning
        assert f"Materialise graph.snapshot of {LAST} for a new file" in warning
        assert copy.partition(WALKS, LAST).equals(world.partition(WALKS, LAST))
        copy.execute(f"UPDATE {SNAPSHOT} SET path = NULL, bytes = NULL WHERE dt = $day", day=LAST)
    # What it was made of is not there any more: no answer is better than a wrong one.
    copy.execute(f"DELETE FROM {EDGES} WHERE dt = $day AND pin_id % 2 = 0", day=LAST)
    [message] = failures(copy.run("daily", LAST, only=[WALKS])).values()
    assert "what the pruned graph of 2026-01-11 was made of is not there any more" in message
    copy.execute(f"DELETE FROM {SNAPSHOT} WHERE dt = $day", day=LAST)
    [message] = failures(copy.run("daily", LAST, only=[WALKS])).values()
    assert "graph.snapshot has no partition of 2026-01-11: materialise it first" in message


def test_only_files_that_no_row_names_are_deleted(world, tmp_path, monkeypatch):
    copy = world.copy(tmp_path / "data")
    monkeypatch.setattr("pinnersage_assets.warehouse.publishing.UNNAMED_FOR_SECONDS", -1)
    copy.execute(f"UPDATE {SNAPSHOT} SET path = NULL WHERE graph = 'full'")
    # The published copy names them still.
    assert delete_unnamed_graphs(copy.warehouse, copy.settings) == {}
    paths = world.read(f"SELECT path FROM {SNAPSHOT} WHERE graph = 'full'")["path"].to_list()
    unnamed = [copy.data / path for path in paths]
    assert len(unnamed) >= 2
    (copy.data / "published" / "pinnersage.duckdb").unlink()
    sizes = [file.stat().st_size for file in unnamed]
    assert delete_unnamed_graphs(copy.warehouse, copy.settings) == dict(zip(unnamed, sizes, strict=True))
    assert graph_of(copy, "pruned").n_edges > 0


# --- Nothing to walk on


def test_without_boards_the_graph_is_empty_and_the_blend_is_pinnersage(world, tmp_path):
    copy = world.copy(tmp_path / "data")
    copy.execute("DELETE FROM staging.board_pins")
    result = copy.run("daily", LAST, only=[EDGES, SNAPSHOT, WALKS, BLEND])
    assert failures(result) == {}
    assert all(check.passed for check in result.get_asset_check_evaluations())
    for row in rows_of(copy).values():
        assert (row["pins"], row["boards"], row["edges"]) == (0, 0, 0)
    assert copy.partition(WALKS, LAST).is_empty()
    [event] = result.asset_materializations_for_node("retrieval__pixie_recommendations")
    metadata = {name: value.value for name, value in event.metadata.items()}
    assert metadata["users without an answer: query pins without edges"] == metadata["users who asked"] > 50
    columns = ["user_id", "rank", "pin_id", "score"]
    blend, own = (copy.partition(t, LAST).select(columns).sort(columns) for t in (BLEND, "retrieval.recommendations"))
    assert blend.equals(own)
    assert copy.partition(BLEND, LAST)["source"].unique().to_list() == ["pinnersage"]
