"""How the corpus of a day is searched: exactly, or through a file that is kept, grown, built, mended and deleted."""

import errno
import itertools
import os
import time
from dataclasses import replace

import duckdb
import numpy as np
import pytest
from conftest import LAST
from usearch.index import Index
from world import PINS_WRITTEN_ANEW, World, differences, failures, on, small_settings

from pinnersage_assets.ann import hnsw
from pinnersage_assets.ann.hnsw import HnswIndex, HnswParameters, build, checksum, save
from pinnersage_assets.ann.shards import shard_of
from pinnersage_assets.lineage.queries import corpus_vectors

ROW = "retrieval.hnsw_index"
NEIGHBOURS = "retrieval.medoid_neighbours"
DAYS = [on(8), on(9), LAST]
YESTERDAY = DAYS[1]
WARNING = 30


def settings_of(index=None, **others):
    """Shares so small that no search is for a tenth of the corpus, which would be a scan."""
    return small_settings(
        window={"days": 8},
        index={"exact_up_to": 0, "recall_sample": 10_000, **(index or {})},
        retrieval={"budget": 30, "margin": 10},
        evaluation={"users": 1000},
        **others,
    )


@pytest.fixture(scope="module")
def indexed(world, tmp_path_factory) -> World:
    """The world with HNSW indexes of three days, the first built and the others grown. Read-only: copy it."""
    indexed = world.copy(tmp_path_factory.mktemp("indexed") / "data", settings_of())
    for day in DAYS:
        tables = [ROW, NEIGHBOURS, "retrieval.recommendations"] if day == LAST else [ROW]
        assert failures(indexed.run("daily", day, only=tables)) == {}
    return indexed


def row_of(world, day=LAST):
    [row] = world.read(f"FROM {ROW} WHERE dt = $day", day=day).to_dicts()
    return row


def file_of(world, day=LAST):
    return world.data / row_of(world, day)["path"]


def index_files(world):
    return sorted(str(file.relative_to(world.data)) for file in (world.data / "index").rglob("*") if file.is_file())


def held(file):
    return sorted(np.asarray(Index.restore(str(file), view=False).keys).view(np.int64).tolist())


def corpus(world, day=LAST):
    return world.partition("corpus.pins", day)["pin_id"].to_list()


def recall_of_neighbours(world, day=LAST):
    """The mean share of the true neighbours among those that the table holds, by a scan; and the longest list."""
    ids, vectors = corpus_vectors(world.warehouse, day)
    vectors = vectors[:]
    known, embeddings = world.warehouse.read_vectors("SELECT pin_id, embedding FROM staging.pins")
    row_of_pin = {pin: row for row, pin in enumerate(known.tolist())}
    shares, lengths = [], []
    for medoid, pins in world.partition(NEIGHBOURS, day).select("medoid_pin_id", "pin_ids").rows():
        order = np.argsort(-(vectors @ embeddings[row_of_pin[medoid]]), kind="stable")
        shares.append(len(set(pins) & set(ids[order[: len(pins)]].tolist())) / len(pins))
        lengths.append(len(pins))
    return np.mean(shares), max(lengths)


def run(world, *tables, day=LAST):
    """Run some tables and their checks: what was said at info or above, and what as a warning."""
    result = world.run("daily", day, only=tables)
    assert failures(result) == {}
    logs = [log for log in world.instance.all_logs(result.run_id) if not log.dagster_event]
    return (
        "\n".join(log.user_message for log in logs),
        [log.user_message for log in logs if log.level >= WARNING],
    )


def forget(world, day=LAST):
    """As if the day had never been materialised; its file stays, and no row names it."""
    world.execute(f"DELETE FROM {ROW} WHERE dt = $day", day=day)


# --- What the row says


def test_a_small_corpus_is_searched_exactly_and_has_no_file(world):
    row = row_of(world)
    assert row["method"] == "exact"
    assert (row["pins"], row["dimensions"], row["metric"]) == (len(corpus(world)), 64, "cos")
    assert (row["recall"], row["recall_at_100"]) == (1, 1)
    files = ("path", "sha256", "bytes", "fingerprint", "connectivity", "expansion_add", "expansion_search")
    assert [row[name] for name in files] == [None] * len(files)
    assert not (world.data / "index").exists()


@pytest.mark.parametrize(("more", "method"), [(0, "exact"), (-1, "hnsw")])
def test_the_setting_is_the_largest_corpus_that_is_searched_exactly(indexed, tmp_path, more, method):
    pins = len(corpus(indexed))
    copy = indexed.copy(tmp_path / "data", settings_of({"exact_up_to": pins + more}))
    run(copy, ROW)
    assert row_of(copy)["method"] == method


@pytest.mark.parametrize("day", DAYS)
def test_the_row_of_an_index_describes_its_file(indexed, day):
    row, file = row_of(indexed, day), file_of(indexed, day)
    index = Index.restore(str(file), view=False)
    assert (row["method"], row["metric"], row["dtype"]) == ("hnsw", "cos", "i8")
    parameters = ("connectivity", "expansion_add", "expansion_search")
    assert [row[name] for name in parameters] == [getattr(indexed.settings.index, name) for name in parameters]
    assert (index.metric_kind.name, index.dtype.name, index.connectivity) == ("Cos", "I8", 16)
    assert row["dimensions"] == index.ndim == 64
    assert row["bytes"] == file.stat().st_size
    assert row["sha256"] == checksum(file)
    assert row["path"].startswith(f"index/dt={day}/")
    assert held(file) == corpus(indexed, day)
    assert row["pins"] == len(corpus(indexed, day))


def test_the_recall_in_the_row_is_that_of_the_neighbours_in_the_table(indexed):
    row = row_of(indexed)
    recall, deepest = recall_of_neighbours(indexed)
    assert row["recall"] == pytest.approx(recall)
    assert row["deepest_query"] == deepest == 40
    assert deepest < row["pins"] / 10
    assert recall > 0.97


def test_nearly_the_same_is_recommended_as_by_exact_search(indexed, tmp_path):
    exact = indexed.copy(tmp_path / "data", settings_of({"exact_up_to": 10**6}))
    tables = [ROW, NEIGHBOURS, "retrieval.recommendations"]
    run(exact, *tables)
    assert row_of(exact)["method"] == "exact"
    assert recall_of_neighbours(exact)[0] == 1
    recommended = [
        set(world.partition(tables[2], LAST).select("user_id", "pin_id").rows()) for world in (exact, indexed)
    ]
    assert len(recommended[0]) == pytest.approx(len(recommended[1]), rel=0.01)
    assert len(recommended[0] & recommended[1]) > 0.97 * len(recommended[0])


# --- A file is kept


def test_a_day_run_again_has_the_same_rows_and_keeps_its_file(indexed, tmp_path):
    copy = indexed.copy(tmp_path / "data")
    file, files = file_of(copy), index_files(copy)
    before = file.stat().st_mtime_ns
    _, warnings = run(copy, ROW, NEIGHBOURS, "retrieval.recommendations")
    assert warnings == []
    assert differences(indexed.partitions(LAST), copy.partitions(LAST)) == []
    assert row_of(copy)["build_seconds"] == 0
    assert index_files(copy) == files
    assert file.stat().st_mtime_ns == before


def test_a_kept_file_is_searched_and_measured_as_the_settings_say_now(indexed, tmp_path, monkeypatch):
    """Else a failed recall check could not be mended by raising index.expansion_search, as its advice says."""
    copy = indexed.copy(tmp_path / "data", settings_of({"expansion_search": 321}))
    searched_with, search = set(), HnswIndex.search
    monkeypatch.setattr(
        HnswIndex,
        "search",
        lambda index, *arguments: searched_with.add(index.expansion_search) or search(index, *arguments),
    )
    run(copy, ROW, NEIGHBOURS)
    row = row_of(copy)
    assert (row["build_seconds"], row["expansion_search"]) == (0, 321)
    assert row["path"] == row_of(indexed)["path"]
    assert searched_with == {321}


@pytest.mark.parametrize(("name", "value"), [("connectivity", 8), ("expansion_add", 64), ("dtype", "f32")])
def test_other_parameters_of_building_mean_another_file_that_is_built(indexed, tmp_path, name, value):
    copy = indexed.copy(tmp_path / "data", settings_of({name: value}))
    said, _ = run(copy, ROW)
    row = row_of(copy)
    assert row[name] == value
    assert row["path"] != row_of(indexed)["path"]
    assert row["changes_since_build"] == 0
    assert "is grown" not in said
    assert held(copy.data / row["path"]) == corpus(copy)


def test_a_corpus_that_changed_has_another_file(indexed, tmp_path):
    copy = indexed.copy(tmp_path / "data")
    gone = corpus(copy)[:5]
    copy.execute("DELETE FROM corpus.pins WHERE dt = $day AND list_contains($gone, pin_id)", day=LAST, gone=gone)
    run(copy, ROW)
    assert held(file_of(copy)) == corpus(copy)
    assert not set(gone) & set(corpus(copy))
    assert row_of(copy)["path"] != row_of(indexed)["path"]


# --- A file that came to harm


def harm(file, how):
    if how == "deleted":
        file.unlink()
    else:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)


HARMS = pytest.mark.parametrize("how", ["damaged", "deleted"])


@HARMS
def test_a_file_that_came_to_harm_is_replaced_with_a_warning(indexed, tmp_path, how):
    copy = indexed.copy(tmp_path / "data")
    file = file_of(copy)
    harm(file, how)
    _, warnings = run(copy, ROW, NEIGHBOURS)
    [warning] = warnings
    assert str(file) in warning
    assert ("missing" if how == "deleted" else "damaged") in warning
    assert file_of(copy) != file
    assert held(file_of(copy)) == corpus(copy)
    assert recall_of_neighbours(copy)[0] > 0.97


@HARMS
def test_neighbours_are_found_without_the_file_and_a_warning_says_how_to_get_another(indexed, tmp_path, how):
    copy = indexed.copy(tmp_path / "data")
    file, row = file_of(copy), row_of(copy)
    harm(file, how)
    files = index_files(copy)
    _, warnings = run(copy, NEIGHBOURS)
    [warning] = warnings
    assert str(file) in warning
    assert f"Materialise retrieval.hnsw_index of {LAST} for a new file" in warning
    assert recall_of_neighbours(copy)[0] > 0.97
    # Only the asset whose file it is writes one.
    assert row_of(copy) == row
    assert index_files(copy) == files


def test_neighbours_are_those_of_the_corpus_as_it_is_not_as_it_was(indexed, tmp_path):
    copy = indexed.copy(tmp_path / "data")
    gone = corpus(copy)[::50]
    copy.execute("DELETE FROM corpus.pins WHERE dt = $day AND list_contains($gone, pin_id)", day=LAST, gone=gone)
    _, [warning] = run(copy, NEIGHBOURS)
    assert f"corpus.pins of {LAST} is not what the index file was made of any more" in warning
    found = {pin for pins in copy.partition(NEIGHBOURS, LAST)["pin_ids"] for pin in pins}
    assert found <= set(corpus(copy))


# --- An index grows


def test_indexes_grow_from_day_to_day(indexed):
    """The world's days bring some pins each; none leaves."""
    changes = 0
    assert row_of(indexed, DAYS[0])["changes_since_build"] == 0
    for before, day in itertools.pairwise(DAYS):
        new = set(corpus(indexed, day)) - set(corpus(indexed, before))
        assert len(new) > 10
        changes += len(new) + len(set(corpus(indexed, before)) - set(corpus(indexed, day)))
        assert row_of(indexed, day)["changes_since_build"] == changes
    assert len({file_of(indexed, day) for day in DAYS}) == 3


def test_what_is_done_is_told_and_the_earlier_file_stays_as_it_was(indexed, tmp_path):
    copy = indexed.copy(tmp_path / "data")
    gone = corpus(copy)[:7]
    copy.execute("DELETE FROM corpus.pins WHERE dt = $day AND list_contains($gone, pin_id)", day=LAST, gone=gone)
    forget(copy)
    yesterdays = file_of(copy, YESTERDAY).read_bytes()
    said, warnings = run(copy, ROW, NEIGHBOURS)
    new = len(set(corpus(copy)) - set(corpus(copy, YESTERDAY)))
    assert f"the index of {YESTERDAY} is grown: 7 pins leave, {new} are added" in said
    assert warnings == []
    row = row_of(copy)
    assert row["changes_since_build"] == row_of(copy, YESTERDAY)["changes_since_build"] + 7 + new
    assert held(file_of(copy)) == corpus(copy)
    assert recall_of_neighbours(copy)[0] > 0.97
    assert file_of(copy, YESTERDAY).read_bytes() == yesterdays


def test_an_index_grows_from_the_latest_earlier_day_that_has_a_file(indexed, tmp_path):
    copy = indexed.copy(tmp_path / "data")
    forget(copy)
    copy.execute(f"UPDATE {ROW} SET path = NULL, sha256 = NULL, bytes = NULL WHERE dt = $day", day=YESTERDAY)
    said, _ = run(copy, ROW)
    assert f"the index of {DAYS[0]} is grown" in said
    assert held(file_of(copy)) == corpus(copy)


def test_no_index_is_made_of_a_later_day(indexed, tmp_path):
    copy = indexed.copy(tmp_path / "data")
    for day in DAYS[:2]:
        forget(copy, day)
    said, _ = run(copy, ROW, day=YESTERDAY)
    assert "is grown" not in said
    assert row_of(copy, YESTERDAY)["changes_since_build"] == 0
    assert held(file_of(copy, YESTERDAY)) == corpus(copy, YESTERDAY)


@pytest.fixture
def before_growing(indexed, tmp_path):
    """A world whose last day has no index; today's would grow from yesterday's."""
    copy = indexed.copy(tmp_path / "data")
    forget(copy)
    return copy


def assert_built(world, said):
    assert "is grown" not in said or "it is built anew" in said
    assert row_of(world)["changes_since_build"] == 0
    assert held(file_of(world)) == corpus(world)
    assert row_of(world)["recall"] > 0.97


def test_a_pin_whose_vector_was_corrected_means_that_it_is_built(before_growing):
    """It went into yesterday's index with the other vector, and would be found by that one."""
    pin = sorted(set(corpus(before_growing)) & set(corpus(before_growing, YESTERDAY)))[10]
    before_growing.execute(
        "UPDATE staging.pins SET embedding = list_transform(embedding, lambda x: -x)::FLOAT[64] WHERE pin_id = $pin",
        PINS_WRITTEN_ANEW,
        pin=pin,
    )
    said, _ = run(before_growing, ROW)
    assert f"pins of the index of {YESTERDAY} have other vectors now: the index is built anew" in said
    assert_built(before_growing, said)


def test_an_earlier_day_whose_corpus_was_corrected_means_that_it_is_built(before_growing):
    pin = corpus(before_growing, YESTERDAY)[10]
    before_growing.execute("DELETE FROM corpus.pins WHERE dt = $day AND pin_id = $pin", day=YESTERDAY, pin=pin)
    said, _ = run(before_growing, ROW)
    assert_built(before_growing, said)


def test_an_earlier_file_that_came_to_harm_is_a_warning_and_it_is_built(before_growing):
    file = file_of(before_growing, YESTERDAY)
    harm(file, "damaged")
    said, [warning] = run(before_growing, ROW)
    assert str(file) in warning
    assert_built(before_growing, said)


@pytest.mark.parametrize("since", ["at once", "over the days"])
def test_too_many_changes_mean_that_it_is_built(before_growing, since):
    pins = len(corpus(before_growing))
    if since == "at once":
        before_growing.execute("DELETE FROM corpus.pins WHERE dt = $day AND pin_id % 3 = 0", day=LAST)
    else:
        # Yesterday's had nearly as many as there may be; today's few are too many.
        before_growing.execute(f"UPDATE {ROW} SET changes_since_build = $n WHERE dt = $day", day=YESTERDAY, n=pins // 4)
    said, warnings = run(before_growing, ROW)
    assert "pins came or went since the last build: the index is built anew" in said
    assert warnings == []
    assert_built(before_growing, said)


def test_a_grown_index_that_finds_too_little_is_a_warning_and_it_is_built(before_growing):
    """Yesterday's file is in order but for its graph, which is that of other vectors."""
    ids, vectors = corpus_vectors(before_growing.warehouse, YESTERDAY)
    bad = build(ids, np.roll(vectors[:], 1, axis=0), HnswParameters(16, 128, 200, "i8"))
    file = file_of(before_growing, YESTERDAY)
    file.unlink()
    save(bad, file)
    before_growing.execute(f"UPDATE {ROW} SET sha256 = $sum WHERE dt = $day", day=YESTERDAY, sum=checksum(file))
    said, [warning] = run(before_growing, ROW)
    assert "below index.recall_floor; it is built anew" in warning
    assert_built(before_growing, said)


def test_without_medoids_an_index_grows_unmeasured(before_growing):
    before_growing.execute("DELETE FROM users.medoids WHERE dt = $day", day=LAST)
    said, warnings = run(before_growing, ROW, NEIGHBOURS, "retrieval.recommendations")
    assert f"the index of {YESTERDAY} is grown" in said
    assert warnings == []
    row = row_of(before_growing)
    assert (row["recall"], row["recall_at_100"], row["deepest_query"]) == (None, None, None)
    assert held(file_of(before_growing)) == corpus(before_growing)
    assert before_growing.partition("retrieval.recommendations", LAST).is_empty()


# --- Shards, each a file of its own


SHARDS = 3


def shards_of(world, day=LAST):
    rows = world.read(f"FROM {ROW} WHERE dt = $day ORDER BY shard", day=day).to_dicts()
    assert [row["shard"] for row in rows] == list(range(len(rows)))
    return rows


def assert_shares_the_corpus(world, day=LAST):
    """Every pin is in the file of its own shard, and nowhere else."""
    pins = np.array(corpus(world, day))
    for row in shards_of(world, day):
        own = pins[shard_of(pins, SHARDS) == row["shard"]].tolist()
        assert held(world.data / row["path"]) == own
        assert row["pins"] == len(own)
        assert row["recall"] > 0.97


@pytest.fixture(scope="module")
def sharded(indexed, tmp_path_factory):
    """Of two days, the first with an index of one shard before it. Read-only: copy it."""
    copy = indexed.copy(tmp_path_factory.mktemp("sharded") / "data", settings_of({"shards": SHARDS}))
    said, _ = run(copy, ROW, day=YESTERDAY)
    assert "is grown" not in said
    run(copy, ROW, NEIGHBOURS)
    return copy


def test_each_shard_grows_from_its_own_file_of_yesterday(sharded):
    new = set(corpus(sharded)) - set(corpus(sharded, YESTERDAY))
    for day in (YESTERDAY, LAST):
        assert len(shards_of(sharded, day)) == SHARDS
        assert_shares_the_corpus(sharded, day)
    assert [row["changes_since_build"] for row in shards_of(sharded, YESTERDAY)] == [0] * SHARDS
    counts = np.bincount(shard_of(np.array(sorted(new)), SHARDS), minlength=SHARDS)
    assert [row["changes_since_build"] for row in shards_of(sharded)] == counts.tolist()
    assert recall_of_neighbours(sharded)[0] > 0.97


def test_shards_are_kept_and_only_one_that_came_to_harm_is_made_again(sharded, tmp_path):
    copy = sharded.copy(tmp_path / "data")
    before = shards_of(copy)
    file = copy.data / before[1]["path"]
    harm(file, "damaged")
    _, [warning] = run(copy, NEIGHBOURS)
    assert f"{file} is damaged" in warning
    assert recall_of_neighbours(copy)[0] > 0.97
    _, [warning] = run(copy, ROW)
    assert f"{file} is damaged" in warning
    assert "shard 1 of the index is built again" in warning
    assert [row["path"] == old["path"] for row, old in zip(shards_of(copy), before, strict=True)] == [True, False, True]
    assert_shares_the_corpus(copy)


def test_other_numbers_of_shards_are_built(sharded, tmp_path):
    copy = sharded.copy(tmp_path / "data", settings_of())
    said, warnings = run(copy, ROW)
    # Yesterday's three are of no use to one.
    assert f"the index of {YESTERDAY} is grown" not in said
    assert warnings == []
    [row] = shards_of(copy)
    assert held(copy.data / row["path"]) == corpus(copy)


# --- A file that cannot be written


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("Failed to write")])
def test_a_full_disk_fails_the_run_and_leaves_row_and_file_of_before(indexed, tmp_path, monkeypatch, error):
    copy = indexed.copy(tmp_path / "data", settings_of({"connectivity": 8}))
    row, files, content = row_of(copy), index_files(copy), file_of(copy).read_bytes()

    def fails_halfway(self, name):
        with open(name, "wb") as file:
            file.write(b"half of it")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Index, "save", fails_halfway)
        result = copy.run("daily", LAST, only=[ROW, NEIGHBOURS])
    [(step, message)] = failures(result).items()
    assert step == "retrieval__hnsw_index"
    assert f"index/dt={LAST}/hnsw-" in message
    assert "is the disk full?" in message
    assert row_of(copy) == row
    assert index_files(copy) == files
    assert file_of(copy).read_bytes() == content
    _, warnings = run(copy, NEIGHBOURS)
    assert warnings == []
    assert copy.partition(NEIGHBOURS, LAST).equals(indexed.partition(NEIGHBOURS, LAST))


# --- Old files go


def published(world, query):
    with duckdb.connect(str(world.data / "published" / "pinnersage.duckdb"), read_only=True) as connection:
        return [value for (value,) in connection.execute(query).fetchall()]


def publish(world):
    """The end of a day: clean-up and publication. Whatever they do, all files are there that the copy names."""
    failed = {}
    for table in ("operations.clean_up", "operations.publications"):
        failed |= failures(world.run("daily", LAST, only=[table]))
        paths = published(world, f"SELECT path FROM {ROW} WHERE path IS NOT NULL")
        assert {path for path in paths if not (world.data / path).is_file()} == set()
    return failed


def cleaned(world):
    """What the last clean-up says of the index."""
    query = f"SELECT partitions, files, bytes FROM operations.clean_up WHERE dt = $day AND table_name = '{ROW}'"
    [found] = world.read(query, day=LAST).to_dicts()
    return found


def age(*files, days=3):
    for file in files:
        os.utime(file, (time.time() - days * 24 * 3600,) * 2)


@pytest.fixture
def retaining(indexed, tmp_path):
    """Keeps index files of one day before the latest; all are published, and old enough to be deleted."""
    copy = indexed.copy(tmp_path / "data", settings_of(retention={"index_days": 1}))
    assert failures(copy.run("daily", LAST, only=["operations.publications"])) == {}
    age(*(copy.data / name for name in index_files(copy)))
    return copy


def test_the_files_of_old_days_go_once_no_published_row_names_them(retaining):
    paths = {day: row_of(retaining, day)["path"] for day in DAYS}
    before = row_of(retaining, DAYS[0])
    assert publish(retaining) == {}
    assert index_files(retaining) == sorted(paths.values())
    size = (retaining.data / paths[DAYS[0]]).stat().st_size
    assert cleaned(retaining) == {"partitions": 1, "files": 0, "bytes": 0}
    assert publish(retaining) == {}
    assert cleaned(retaining) == {"partitions": 0, "files": 1, "bytes": size}
    assert index_files(retaining) == sorted([paths[YESTERDAY], paths[LAST]])
    assert set(published(retaining, f"SELECT path FROM {ROW}")) == {None, paths[YESTERDAY], paths[LAST]}
    # What else the row says stays.
    after = row_of(retaining, DAYS[0])
    assert {name for name in after if after[name] != before[name]} == {"path", "sha256", "bytes"}
    assert [after[name] for name in ("path", "sha256", "bytes")] == [None] * 3


def test_a_day_without_its_file_can_be_searched_still(retaining, indexed):
    assert publish(retaining) == {}
    _, [warning] = run(retaining, NEIGHBOURS, day=DAYS[0])
    assert f"the index file of {DAYS[0]} was deleted, being older than retention.index_days" in warning
    assert recall_of_neighbours(retaining, DAYS[0])[0] > 0.97
    assert held(file_of(retaining)) == corpus(indexed)
    # Materialised again it has a file again, which grows from no later day's, and goes with the next publication.
    run(retaining, ROW, day=DAYS[0])
    file = file_of(retaining, DAYS[0])
    assert held(file) == corpus(retaining, DAYS[0])
    age(file)
    assert publish(retaining) == publish(retaining) == {}
    assert not file.exists()


def test_an_index_that_comes_out_torn_is_built_once_more(world, tmp_path, monkeypatch):
    copy = world.copy(tmp_path / "data", settings_of())
    built = []

    def torn_at_first(ids, vectors, parameters, *rest):
        built.append(parameters)
        torn = replace(parameters, connectivity=2, expansion_add=1, expansion_search=1)
        return build(ids, vectors, torn if len(built) == 1 else parameters, *rest)

    monkeypatch.setattr(hnsw, "build", torn_at_first)
    _, [warning] = run(copy, ROW)
    assert "the recall of the new index is 0." in warning
    assert "below index.recall_floor; it is built anew" in warning
    assert len(built) == 2
    assert row_of(copy)["recall"] > 0.97


def test_files_without_a_row_go_only_when_no_run_can_be_writing_them(retaining):
    folder = retaining.data / "index" / f"dt={LAST}"
    old, hidden, young = folder / "hnsw-0.usearch", folder / ".hnsw-1.usearch.77.tmp", folder / "hnsw-2.usearch"
    for file in (old, hidden, young):
        file.write_bytes(b"a run was killed")
    age(old, hidden, days=1.1)
    age(young, days=0.9)
    assert publish(retaining) == {}
    assert not old.exists()
    assert not hidden.exists()
    assert young.exists()
    age(young)
    assert publish(retaining) == {}
    assert not young.exists()


def test_a_young_file_outlives_its_row_until_it_is_old(retaining):
    """A run may have begun to read it a moment ago."""
    file = file_of(retaining, DAYS[0])
    age(file, days=0.5)
    assert publish(retaining) == {}
    assert row_of(retaining, DAYS[0])["path"] is None
    assert file.exists()


def test_a_file_that_was_replaced_stays_as_long_as_the_published_copy_names_it(retaining):
    assert publish(retaining) == {}
    replaced = file_of(retaining)
    forget(retaining)
    run(retaining, ROW)
    assert replaced.exists()
    assert file_of(retaining) != replaced
    age(replaced)
    assert publish(retaining) == {}
    assert replaced.exists()
    assert publish(retaining) == {}
    assert not replaced.exists()


def test_a_publication_that_is_refused_deletes_nothing(retaining):
    retaining.execute(
        "UPDATE operations.partitions SET status = 'failed' WHERE table_name = 'users.medoids' AND dt = $day", day=LAST
    )
    files = index_files(retaining)
    refused = publish(retaining)
    assert "not published: users.medoids" in refused["operations__publications"]
    assert index_files(retaining) == files


def test_before_anything_is_written_a_publication_says_what_to_do(tmp_path):
    world = World.new(tmp_path / "data", settings_of())
    refused = failures(world.run("daily", LAST, only=["operations.publications"]))
    assert "materialise something first" in refused["operations__publications"]
    assert not (world.data / "warehouse" / "pinnersage.duckdb").exists()
