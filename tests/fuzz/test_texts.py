"""Settings, SQL models, schema files and CSV files that somebody got wrong: what can be used, or one clear error."""

import datetime
import json
import math
import shutil
import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pinnersage_assets.settings import Section, Settings, load_settings
from pinnersage_assets.sources.events import import_events
from pinnersage_assets.sources.landing import LandingSource, landed_days
from pinnersage_assets.warehouse.sql_models import load_sql_models
from pinnersage_assets.warehouse.tables import SQL_FOLDER

pytestmark = pytest.mark.slow

many = settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
some = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def used(attempt):
    """What comes of it, and the message where nothing does; any other error is none that a user should see."""
    try:
        return attempt(), None
    except ValueError as error:
        assert "Traceback" not in str(error)  # noqa: PT017
        return None, str(error) or "no message"


# --- settings.toml

NAMES = {
    section: list(type(field.default).model_fields)
    for section, field in Settings.model_fields.items()
    if isinstance(field.default, Section)
}
VALUES = st.one_of(
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, 1, -1, 2, 10, 0.0, 0.5, 1.0, -0.5, 1e300, math.nan, math.inf]),
    st.booleans(),
    st.text(max_size=8),
    st.sampled_from(
        ["exact", "equal", "hnsw", "2026-01-01", "2026-13-01", "redis://x", "../..", "'; DROP TABLE x; --"]
    ),
    st.lists(st.integers(-3, 3) | st.text(max_size=3), max_size=3),
    st.just(datetime.date(2026, 1, 1)),
)
SECTION = st.sampled_from(list(NAMES)).flatmap(
    lambda section: st.tuples(
        st.just(section),
        st.dictionaries(st.sampled_from(NAMES[section]) | st.text("abc_", min_size=1, max_size=5), VALUES, max_size=3),
    )
)


def toml(value):
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return {"nan": "nan", "inf": "inf", "-inf": "-inf"}.get(str(value), repr(value))
    if isinstance(value, str):
        return json.dumps(value)
    return f"[{', '.join(map(toml, value))}]" if isinstance(value, list) else str(value)


@many
@given(
    sections=st.lists(SECTION, max_size=3, unique_by=lambda section: section[0]),
    seed=st.none() | VALUES,
    tail=st.just("") | st.text(max_size=20),
)
def test_settings(sections, seed, tail):
    lines = [f"seed = {toml(seed)}"] if seed is not None else []
    for section, found in sections:
        lines += [f"[{section}]", *(f"{name} = {toml(value)}" for name, value in found.items())]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "settings.toml"
        path.write_text("\n".join([*lines, tail]), encoding="utf-8", errors="replace")
        loaded, error = used(lambda: load_settings(path))
    if error:
        # One line or a few, which name the file, and the setting where it is one.
        assert str(path) in error
        assert len(error) < 3_000
        return
    # What was accepted is what was said; numbers may have been whole floats, texts may have been dates.
    for section, found in sections:
        for name, value in found.items():
            assert name in NAMES[section]
            kept = getattr(getattr(loaded, section), name)
            assert kept == value or str(kept) == str(value) or list(kept) == list(value)


# --- SQL models and schema files

MODELS = sorted(path for path in SQL_FOLDER.rglob("*.sql"))
SCHEMAS = sorted(path for path in SQL_FOLDER.rglob("*.yml") if path.parent.name in ("staging", "marts", "sources"))
INSERTED = st.sampled_from(
    [
        "", " ", "{{", "}}", "{% set x = 1 %}", "{{ ref('nothing') }}", "{{ var('x') }}", "{{ ().__class__ }}", "'",
        ";", "; DROP TABLE raw.actions;", "--", "/*", "\x00", "(", ")", ",", "SELECT", "dt", "1 / 0", "日本", "\t- ",
        "{{ source('raw', 'nothing') }}", "{% for i in range(10) %}", "&a *b", "!!python/object:os.system ls", ": ",
        "- name: x", '"',
    ]
)  # fmt: skip


def harmed(text, edits):
    for place, removed, inserted in edits:
        start = int(place * len(text))
        text = text[:start] + inserted + text[start + removed :]
    return text


EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 12), INSERTED | st.text(max_size=3)), min_size=1, max_size=2)


@some
@given(path=st.sampled_from(MODELS), edits=EDITS)
def test_sql_models(path, edits):
    models_load_or_say_why(path, edits)


@some
@given(path=st.sampled_from(SCHEMAS), edits=EDITS)
def test_schema_files(path, edits):
    models_load_or_say_why(path, edits)


def models_load_or_say_why(path, edits):
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "sql"
        shutil.copytree(SQL_FOLDER, copy, ignore=shutil.ignore_patterns("target", "logs", "dbt_packages"))
        changed = copy / path.relative_to(SQL_FOLDER)
        changed.write_text(harmed(path.read_text(encoding="utf-8"), edits), encoding="utf-8", errors="replace")
        loaded, error = used(lambda: load_sql_models(copy))
    if error:
        assert str(copy) in error
    else:
        assert loaded.keys() == load_sql_models().keys()


# --- CSV files of events

CELLS = st.one_of(
    st.sampled_from(
        [
            "1",
            "-1",
            "01",
            "1.0",
            "1e5",
            "9223372036854775807",
            "9223372036854775808",
            "",
            " ",
            "null",
            "NaN",
            "a",
            "日本",
        ]
    ),
    st.text(max_size=5),
)
CLOCKS = st.sampled_from(
    [
        "2026-01-01T10:00:00", "2026-01-01 10:00", "2026-01-01", "2026-01-02T10:00:00Z", "2026-01-02T10:00:00+05:00",
        "1767261600", "1767261600000", "0", "-1", "99999999999999", "9999-12-31", "2026-02-30", "yesterday", "", "1e9",
    ]
)  # fmt: skip
ROWS = st.lists(st.tuples(CELLS, CELLS, CLOCKS), max_size=6)


@many
@given(
    rows=ROWS,
    quoted=st.booleans(),
    tail=st.just(b"") | st.binary(max_size=6),
    header=st.sampled_from(["user,item,time"] * 5 + ["user,item", "", "user;item;time"]),
)
def test_csv_files(rows, quoted, tail, header):
    def cell(text):
        return '"' + text.replace('"', '""') + '"' if quoted else text

    lines = [header, *(",".join(map(cell, row)) for row in rows)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "events of 'mine'.csv"
        source.write_bytes("\n".join(lines).encode("utf-8", errors="replace") + tail)
        vectors = folder / "vectors.parquet"
        items = pl.Series("item", sorted({row[1] for row in rows}), dtype=pl.String)
        embedding = pl.Series("embedding", [[1.0, 0.0]] * len(items), dtype=pl.List(pl.Float32))
        pl.DataFrame([items, embedding]).write_parquet(vectors)
        report, error = used(lambda: import_events(source, folder / "landing", "user", "item", "time", vectors=vectors))
        if error:
            assert any(known in error for known in (source.name, vectors.name, "landing")), error
            assert len(error) < 3_000
            return
        assert report.rows_read == report.rows_written + sum(report.refused.values())
        landed = LandingSource(folder / "landing")
        days = landed_days(folder / "landing", "actions")
        assert sum(len(landed.actions(day)) for day in days) == report.rows_written
        assert (days[0], days[-1]) == (report.first_day, report.last_day)
