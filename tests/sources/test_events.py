import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pinnersage_assets.sources.event_files import timestamps
from pinnersage_assets.sources.events import import_events
from pinnersage_assets.sources.landing import LandingSource, fitted_before, landed_days

FIRST = datetime.date(2026, 3, 1)
FIT_BEFORE = datetime.date(2026, 3, 9)
COLUMNS = ("who", "what", "when")


def day(number: int) -> datetime.date:
    return FIRST + datetime.timedelta(number)


def shop(seed: int = 0, users: int = 30, days: int = 12) -> pl.DataFrame:
    """A log of 12 days, shuffled; every user has three items a day; `late` is first seen on the tenth day."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), 3 * days)
    number = np.tile(np.repeat(np.arange(days), 3), users)
    item = (user % 2) * 10 + rng.integers(0, 10, user.size)
    frame = pl.DataFrame(
        {
            "who": [f"u{u}" for u in user],
            "what": ["late" if n >= 9 and i == 0 else f"i{i}" for n, i in zip(number, item, strict=True)],
            "when": [
                datetime.datetime.combine(day(int(n)), datetime.time(12)) + datetime.timedelta(minutes=int(u))
                for n, u in zip(number, user, strict=True)
            ],
        }
    )
    return frame.sample(fraction=1, shuffle=True, seed=seed)


def write(path: Path, frame: pl.DataFrame) -> Path:
    if path.suffix == ".csv":
        frame.write_csv(path)
    else:
        frame.write_parquet(path)
    return path


def vectors_of(path: Path, items: list, n: int = 3) -> Path:
    vectors = np.random.default_rng(0).normal(size=(len(items), n))
    pl.DataFrame({"what": items, "embedding": vectors}).write_parquet(path)
    return path


def landed(folder: Path, table: str) -> pl.DataFrame:
    read = getattr(LandingSource(folder), table)
    return pl.concat([read(day).with_columns(pl.lit(day).alias("dt")) for day in landed_days(folder, table)])


def originals(folder: Path, name: str) -> dict[int, str]:
    return dict(pl.read_parquet(folder / f"dictionaries/{name}.parquet").select("id", "original").iter_rows())


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_every_event_is_landed_on_its_day_under_its_original_ids(tmp_path, suffix):
    log = shop()
    report = import_events(
        write(tmp_path / f"log{suffix}", log), tmp_path / "landing", *COLUMNS, vectors_before=FIT_BEFORE, dimensions=4
    )
    folder = tmp_path / "landing"
    actions = landed(folder, "actions").with_columns(
        pl.col("user_id").replace_strict(originals(folder, "users")).alias("who"),
        pl.col("pin_id").replace_strict(originals(folder, "items")).alias("what"),
    )
    assert actions.select("who", "what", pl.col("ts").alias("when")).sort(COLUMNS).equals(log.sort(COLUMNS))
    assert (actions["ts"].dt.date() == actions["dt"]).all()
    assert actions["action"].unique().to_list() == ["click"]
    assert (report.rows_read, report.rows_written, report.refused) == (log.height, log.height, {})
    assert (report.users, report.items, report.pins, report.items_without_vector) == (30, 21, 20, 1)
    assert (report.days, report.first_day, report.last_day) == (12, FIRST, day(11))
    assert not (folder / "refused").exists()


def test_pins_land_on_the_day_of_their_first_event_with_unit_vectors(tmp_path):
    log, folder = shop(), tmp_path / "landing"
    import_events(write(tmp_path / "log.csv", log), folder, *COLUMNS, vectors_before=FIT_BEFORE, dimensions=4)
    pins = landed(folder, "pins").with_columns(
        pl.col("pin_id").replace_strict(originals(folder, "items")).alias("what")
    )
    first = log.filter(pl.col("what") != "late").group_by("what").agg(pl.col("when").min())
    assert dict(pins.select("what", "created_at").iter_rows()) == dict(first.iter_rows())
    assert (pins["created_at"].dt.date() == pins["dt"]).all()
    np.testing.assert_allclose(np.linalg.norm(np.array(pins["embedding"].to_list()), axis=1), 1, atol=1e-6)


def test_up_to_when_vectors_were_fitted_is_recorded(tmp_path):
    folder, log = tmp_path / "landing", write(tmp_path / "log.csv", shop())
    import_events(log, folder, *COLUMNS, vectors_before=FIT_BEFORE, dimensions=4)
    assert fitted_before(folder) == FIT_BEFORE
    # All of them are replaced.
    import_events(log, folder, *COLUMNS, vectors_before=day(2), dimensions=4, replace=True)
    assert fitted_before(folder) == day(2)
    # Vectors of another origin come on later days; then they replace all.
    vectors = vectors_of(tmp_path / "v.parquet", [f"i{number}" for number in range(20)], n=4)
    later = write(tmp_path / "later.csv", shop().filter(pl.col("when") >= day(1)))
    import_events(later, folder, *COLUMNS, vectors=vectors, replace=True)
    assert fitted_before(folder) == day(2)
    import_events(log, folder, *COLUMNS, vectors=vectors, replace=True)
    assert fitted_before(folder) is None


def test_numbers_follow_the_first_appearance_by_time_then_row(tmp_path):
    log = pl.DataFrame({"who": ["c", "b", "a", "b"], "what": ["z", "y", "x", "z"], "when": [2, 1, 1, 0]}).with_columns(
        pl.col("when") * 60 + 1_700_000_000
    )
    folder = tmp_path / "landing"
    import_events(write(tmp_path / "log.csv", log), folder, *COLUMNS, vectors=vectors_of(tmp_path / "v.parquet", ["x"]))
    assert originals(folder, "users") == {0: "b", 1: "a", 2: "c"}
    assert originals(folder, "items") == {0: "z", 1: "y", 2: "x"}


def test_later_events_do_not_change_vectors(tmp_path):
    log = shop()
    other_end = pl.concat(
        [log.filter(pl.col("when").dt.date() < FIT_BEFORE), shop(1).filter(pl.col("when").dt.date() >= FIT_BEFORE)]
    )
    embeddings = []
    for name, frame in (("a", log), ("b", other_end)):
        folder = tmp_path / name
        import_events(write(tmp_path / f"{name}.csv", frame), folder, *COLUMNS, vectors_before=FIT_BEFORE, dimensions=4)
        embeddings.append(landed(folder, "pins").select("pin_id", "created_at", "embedding"))
    assert not log.sort(COLUMNS).equals(other_end.sort(COLUMNS))
    assert embeddings[0].equals(embeddings[1])


def test_integer_ids_are_kept_without_a_dictionary(tmp_path):
    ids = [2**63 - 1, -5, 0]
    log = pl.DataFrame({"who": ids, "what": [7, 8, 7], "when": [FIRST] * 3})
    for suffix in (".csv", ".parquet"):
        folder = tmp_path / suffix
        vectors = vectors_of(tmp_path / "v.parquet", [7, 8, 9])
        report = import_events(write(tmp_path / f"log{suffix}", log), folder, *COLUMNS, vectors=vectors)
        assert landed(folder, "actions")["user_id"].to_list() == ids
        assert landed(folder, "pins")["pin_id"].to_list() == [7, 8]
        assert report.vectors_without_events == 1
        assert not (folder / "dictionaries").exists()


@pytest.mark.parametrize("ids", [["007", "7"], ["1", "x"], [str(2**63), "1"], ["1.5", "2"]])
def test_ids_that_are_not_all_integers_stay_apart_by_a_dictionary(tmp_path, ids):
    log = pl.DataFrame({"who": ids, "what": [1, 1], "when": [FIRST] * 2})
    folder = tmp_path / "landing"
    import_events(write(tmp_path / "log.csv", log), folder, *COLUMNS, vectors=vectors_of(tmp_path / "v.parquet", [1]))
    assert originals(folder, "users") == dict(enumerate(ids))


def test_whole_floats_are_integers_among_which_some_are_missing(tmp_path):
    log = pl.DataFrame({"who": [3.0, float("nan"), None], "what": [1, 1, 1], "when": [FIRST] * 3})
    folder = tmp_path / "landing"
    vectors = vectors_of(tmp_path / "v.parquet", [1])
    report = import_events(write(tmp_path / "log.parquet", log), folder, *COLUMNS, vectors=vectors)
    assert landed(folder, "actions")["user_id"].to_list() == [3]
    assert report.refused == {"user_missing": 2}


def test_a_second_import_keeps_numbers_and_pins_and_extends_them(tmp_path):
    folder, log = tmp_path / "landing", shop()
    early, late = log.filter(pl.col("when").dt.date() < day(9)), log.filter(pl.col("when").dt.date() >= day(9))
    import_events(write(tmp_path / "1.csv", early), folder, *COLUMNS, vectors_before=FIT_BEFORE, dimensions=4)
    before, pins = originals(folder, "items"), landed(folder, "pins")
    files = snapshot(folder / "actions")
    with pytest.raises(ValueError, match="not be comparable"):
        import_events(write(tmp_path / "2.csv", late), folder, *COLUMNS, vectors_before=day(11), dimensions=4)
    report = import_events(tmp_path / "2.csv", folder, *COLUMNS, vectors_before=FIT_BEFORE)
    assert originals(folder, "items") == {**before, 20: "late"}
    assert landed(folder, "pins").equals(pins)
    assert (report.pins, report.items_without_vector) == (0, 1)
    assert files.items() <= snapshot(folder / "actions").items()


def test_days_are_replaced_only_when_asked_and_others_stay(tmp_path):
    folder, log = tmp_path / "landing", shop()
    source = write(tmp_path / "log.csv", log)
    import_events(source, folder, *COLUMNS, vectors_before=FIT_BEFORE, dimensions=4)
    files = snapshot(folder)
    with pytest.raises(ValueError, match=r"already has 12 of the 12 days.*replace"):
        import_events(source, folder, *COLUMNS, vectors_before=FIT_BEFORE, dimensions=4)
    assert snapshot(folder) == files
    import_events(source, folder, *COLUMNS, vectors_before=FIT_BEFORE, dimensions=4, replace=True)
    assert snapshot(folder) == files

    one = pl.DataFrame({"who": ["u1"], "what": ["i1"], "when": [FIRST]})
    vectors = vectors_of(tmp_path / "v.parquet", ["i1"], n=4)
    import_events(write(tmp_path / "one.csv", one), folder, *COLUMNS, vectors=vectors, replace=True)
    changed = {name for name, content in snapshot(folder).items() if files.get(name) != content}
    assert changed == {f"actions/dt={FIRST}/part-0.parquet", f"pins/dt={FIRST}/part-0.parquet"}
    assert LandingSource(folder).actions(FIRST).height == 1


def test_text_ids_do_not_join_a_folder_of_integer_ids(tmp_path):
    folder, vectors = tmp_path / "landing", vectors_of(tmp_path / "v.parquet", [1])
    rows = pl.DataFrame({"who": [1], "what": [1], "when": [FIRST]})
    import_events(write(tmp_path / "1.csv", rows), folder, *COLUMNS, vectors=vectors)
    rows = rows.with_columns(who=pl.lit("anna"), when=pl.lit(day(1)))
    with pytest.raises(ValueError, match=r"users have integer ids.*'anna' could collide"):
        import_events(write(tmp_path / "2.csv", rows), folder, *COLUMNS, vectors=vectors)


def test_refused_rows_are_counted_and_kept_as_they_were(tmp_path):
    (tmp_path / "log.csv").write_text(
        "who,what,when,did\n"
        "anna,x,2026-03-01,like\n"
        ",x,2026-03-01,like\n"
        'anna," ",2026-03-01,like\n'
        "anna,x,,like\n"
        "anna,x,yesterday,like\n"
        "anna,x,2026-02-30,like\n"
        "anna,x,20260301,like\n"
        "anna,x,2026-03-01,\n"
        ",,,\n"
    )
    folder = tmp_path / "landing"
    report = import_events(
        tmp_path / "log.csv", folder, *COLUMNS, action_column="did", vectors=vectors_of(tmp_path / "v.parquet", ["x"])
    )
    assert report.refused == {
        "user_missing": 2,
        "item_missing": 1,
        "time_missing": 1,
        "time_unparseable": 2,
        "time_out_of_range": 1,
        "action_missing": 1,
    }
    assert report.rows_read == report.rows_written + sum(report.refused.values()) == 9
    refused = pl.read_parquet(folder / "refused/log.csv.parquet")
    assert refused["row"].to_list() == list(range(1, 9))
    assert refused.row(4, named=True) == {
        "row": 5,
        "reason": "time_unparseable",
        "original": {"who": "anna", "what": "x", "when": "2026-02-30", "did": "like"},
    }
    assert landed(folder, "actions")["action"].to_list() == ["like"]


def test_the_most_frequent_title_wins(tmp_path):
    log = pl.DataFrame(
        {"who": "a", "what": ["x"] * 4 + ["y"], "when": [FIRST] * 5, "name": ["b", "a", None, "a", None]}
    )
    folder = tmp_path / "landing"
    vectors = vectors_of(tmp_path / "v.parquet", ["x", "y"])
    import_events(write(tmp_path / "log.parquet", log), folder, *COLUMNS, title_column="name", vectors=vectors)
    assert landed(folder, "pins")["title"].to_list() == ["a", None]


def test_baskets_decide_which_items_are_near(tmp_path):
    """One user on one day; only the basket column tells the two pairs apart."""
    baskets = [
        ("x", "1"),
        ("y", "1"),
        ("z", "2"),
        ("w", "2"),
        ("x", "3"),
        ("y", "3"),
        ("z", "4"),
        ("w", "4"),
        ("x", "5"),
        ("y", "5"),
    ]
    log = pl.DataFrame({"what": [b[0] for b in baskets], "cart": [b[1] for b in baskets]}).with_columns(
        who=pl.lit("a"), when=pl.lit(FIRST)
    )
    folder = tmp_path / "landing"
    source = write(tmp_path / "log.parquet", log)
    import_events(source, folder, *COLUMNS, basket_column="cart", vectors_before=day(1), dimensions=2)
    x, y, z, w = np.array(landed(folder, "pins").sort("pin_id")["embedding"].to_list())
    assert min(x @ y, z @ w) > 0.999
    assert abs(x @ z) < 1e-3


UTC_NOON = datetime.datetime(2026, 3, 1, 12)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-03-01", datetime.datetime(2026, 3, 1)),
        ("2026-03-01 12:00", UTC_NOON),
        ("2026-03-01T12:00:00.000", UTC_NOON),
        ("2026-03-01T12:00:00Z", UTC_NOON),
        ("2026-03-01 14:00:00+02:00", UTC_NOON),
        ("2026-03-01T06:30:00.0000009-0530", UTC_NOON),
        ("2026-03-01 13:00:00+01", UTC_NOON),
        ("1772366400", UTC_NOON),
        ("1772366400.25", UTC_NOON + datetime.timedelta(milliseconds=250)),
        ("1772366400000", UTC_NOON),
        ("1772366400000000", "time_out_of_range"),
        ("20260301", "time_out_of_range"),
        ("nan", "time_unparseable"),
        ("01/03/2026 12:00", "time_unparseable"),
        ("2026-03-01 25:00", "time_unparseable"),
        ("0000-01-01", "time_out_of_range"),
        ("  ", "time_missing"),
        (None, "time_missing"),
    ],
)
def test_times_of_text(text, expected):
    # Among others: the form of one row must not decide how another is read.
    times, problems = timestamps(pl.Series("when", ["2026-03-01", text, "x"]), numbers_are_text=True)
    assert (times[1] or problems[1]) == expected
    assert (times[0], problems[0], times[2], problems[2]) == (
        datetime.datetime(2026, 3, 1),
        None,
        None,
        "time_unparseable",
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pl.Series([UTC_NOON]).dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Tokyo"), UTC_NOON),
        (pl.Series([UTC_NOON], dtype=pl.Datetime("ns")), UTC_NOON),
        (pl.Series([FIRST]), datetime.datetime(2026, 3, 1)),
        (pl.Series([1_772_366_400], dtype=pl.UInt32), UTC_NOON),
        (pl.Series([1_772_366_400_000.0]), UTC_NOON),
        (pl.Series([2**62]).cast(pl.Datetime("ms", "UTC")), "time_out_of_range"),
        (pl.Series([2026]), "time_out_of_range"),
        (pl.Series(["1772366400"]), "time_unparseable"),
        (pl.Series([float("nan")]), "time_missing"),
        (pl.Series([None]), "time_missing"),
    ],
    ids=lambda value: str(getattr(value, "dtype", "")),
)
def test_times_of_typed_columns(values, expected):
    times, problems = timestamps(values.alias("when"), numbers_are_text=False)
    assert times.dtype == pl.Datetime("us")
    assert (times[0] or problems[0]) == expected


def test_vectors_of_a_file_are_handed_on_as_they_are(tmp_path):
    log = pl.DataFrame({"who": ["a"] * 3, "what": ["x", "y", "z"], "when": [FIRST] * 3})
    vectors = pl.DataFrame({"what": ["y", "x", "q", "z"], "embedding": [[3.0, 4.0], [float("inf")], [1.0], None]})
    vectors.write_parquet(tmp_path / "v.parquet")
    folder = tmp_path / "landing"
    report = import_events(write(tmp_path / "log.csv", log), folder, *COLUMNS, vectors=tmp_path / "v.parquet")
    assert landed(folder, "pins")["embedding"].to_list() == [[float("inf")], [3.0, 4.0]]
    assert (report.items_without_vector, report.vectors_without_events) == (1, 1)


def good(tmp_path: Path) -> dict:
    return {
        "source": write(tmp_path / "log.csv", shop()),
        "folder": tmp_path / "landing",
        "user_column": "who",
        "item_column": "what",
        "time_column": "when",
        "vectors_before": FIT_BEFORE,
        "dimensions": 4,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": Path("/nowhere/log.csv")}, "/nowhere/log.csv is not a file"),
        ({"user_column": "user"}, "no column user; it has who, what, when"),
        ({"basket_column": "cart", "title_column": "name"}, "no column name, cart"),
        ({"vectors_before": None}, "give either vectors .* or vectors_before"),
        ({"vectors": Path("v.parquet")}, "give either vectors .* or vectors_before"),
        ({"vectors_before": FIRST}, "no event before 2026-03-01.*span 2026-03-01 to 2026-03-12"),
        ({"dimensions": 64}, "support 19 dimensions, not 64"),
        ({"time_column": "who"}, "no row that can be used: {'time_unparseable': 1080}"),
        ({"vectors_before": None, "vectors": Path("v.csv")}, "v.csv: vectors must be a Parquet file"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "".join(value),
)
def test_what_is_wrong_is_said(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        import_events(**{**good(tmp_path), **changes})
    assert not (tmp_path / "landing/actions").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bad.xlsx", b"x", "unknown format"),
        ("bad.csv", b"", "cannot be read as comma-separated UTF-8"),
        ("bad.csv", b"who,what,when\na,\xff,2026-03-01\n", "cannot be read as comma-separated UTF-8"),
        ("bad.csv", b"who,what,when\na,b,c,d\n", "cannot be read as comma-separated UTF-8"),
        ("bad.csv", b"who,what,when\n", "no row that can be used: it is empty"),
        ("bad.parquet", b"PAR1", "cannot be read as Parquet"),
    ],
)
def test_unreadable_sources_are_said(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        import_events(**{**good(tmp_path), "source": tmp_path / name})


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ({"what": ["i1", "i1"], "embedding": [[1.0], [2.0]]}, "what 'i1' has several vectors"),
        ({"what": ["i1", None], "embedding": [[1.0], [2.0]]}, "1 vectors have no what"),
        ({"what": ["i1"], "vector": [[1.0]]}, "no column embedding; it has what, vector"),
        ({"what": ["i1"], "embedding": ["1.0"]}, "embedding is String"),
    ],
)
def test_vector_files_that_cannot_be_used_are_said(tmp_path, vectors, message):
    pl.DataFrame(vectors).write_parquet(tmp_path / "v.parquet")
    with pytest.raises(ValueError, match=message):
        import_events(**{**good(tmp_path), "vectors_before": None, "vectors": tmp_path / "v.parquet"})


def test_a_column_of_lists_cannot_be_an_id(tmp_path):
    log = pl.DataFrame({"who": [[1]], "what": ["x"], "when": [FIRST]})
    with pytest.raises(ValueError, match="column who is List"):
        import_events(**{**good(tmp_path), "source": write(tmp_path / "log.parquet", log)})
