"""The command line: what it says of mistakes, and that the prompt answers."""

import datetime
import os
import subprocess
import sys

import duckdb
import polars as pl
import pytest

from pinnersage_assets.files import held
from pinnersage_assets.serving.consumer import alone


def run(tmp_path, *arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess:
    variables = {**os.environ, "PINNERSAGE_DATA_DIR": str(tmp_path), "DAGSTER_HOME": str(tmp_path), **environment}
    return subprocess.run(
        [sys.executable, "-m", "pinnersage_assets", *arguments],
        input=stdin,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("days", "environment", "message"),
    [
        (("2026-01-05", "2026-01-05"), {"PINNERSAGE_SOURCE": "lnading"}, "must be one of simulated, landing"),
        (("2026-01-05", "2026-01-05"), {"PINNERSAGE_SOURCE": "landing"}, "there are no folders landing/"),
        (("2026-01-05", "2026-01-05"), {"PINNERSAGE_START_DATE": "soon"}, "must be a date such as 2026-01-31"),
        (("2026-01-05", "2025-01-05"), {}, "the last day is before the first"),
        (("2025-01-05", "2026-01-05"), {}, "the first partition is 2026-01-01"),
        ((str(datetime.date.today()), str(datetime.date.today())), {}, "is not over yet"),
    ],
    ids=["source", "nothing landed", "start date", "order", "too early", "today"],
)
def test_a_mistake_is_a_message_and_nothing_happens(tmp_path, days, environment, message):
    done = run(tmp_path, "backfill", "--from", days[0], "--to", days[1], **environment)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "warehouse").exists()


def test_a_second_backfill_says_that_there_is_one(tmp_path):
    with held(tmp_path / "backfill.lock"):
        done = run(tmp_path, "backfill", "--from", "2026-01-05", "--to", "2026-01-05")
    assert done.returncode == 1
    assert f"another backfill, or demo, is at work in {tmp_path}: wait until it has ended" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "warehouse").exists()


@pytest.mark.slow
def test_a_file_that_cannot_be_read_is_a_message_and_not_all_that_therefore_did_not_run(tmp_path):
    folder = tmp_path / "landing" / "actions" / "dt=2026-01-05"
    folder.mkdir(parents=True)
    pl.DataFrame({"user_id": [1], "pin": [1]}).write_parquet(folder / "a.parquet")
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\nnux: {enabled: false}\n")
    day = "2026-01-05"
    done = run(tmp_path, "backfill", "--from", day, "--to", day, PINNERSAGE_SOURCE="landing")
    assert done.returncode == 1
    assert "a.parquet lacks the required column pin_id" in done.stderr
    assert len(done.stderr.splitlines()) < 5, done.stderr


def test_the_settings_file_is_named_in_its_mistakes(tmp_path):
    (tmp_path / "settings.toml").write_text("[clustering]\nalfa = 1\n")
    done = run(tmp_path, "backfill", "--from", "2026-01-05", "--to", "2026-01-05")
    assert "settings.toml has settings that cannot be used: clustering.alfa: there is no such setting" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_prompt_runs_all_of_a_script(tmp_path):
    (tmp_path / "published").mkdir()
    with duckdb.connect(str(tmp_path / "published" / "pinnersage.duckdb")) as connection:
        connection.execute("CREATE TABLE t AS SELECT 'some value' AS c")
    done = run(tmp_path, "sql", stdin="SELECT 'first' AS a; SELECT c FROM t")
    assert done.returncode == 0
    assert "first" in done.stdout
    assert "some value" in done.stdout
    assert run(tmp_path, "sql", stdin="INSERT INTO t VALUES ('more');").returncode == 1


def test_the_prompt_says_what_makes_the_copy(tmp_path):
    assert "`make demo` or the daily job makes it" in run(tmp_path, "sql").stderr


def test_erasure_tells_what_was_found_and_that_nothing_is_left(tmp_path):
    folder = tmp_path / "landing" / "actions" / "dt=2026-01-01"
    folder.mkdir(parents=True)
    rows = pl.DataFrame({"user_id": [17, 17, 4], "pin_id": [1, 2, 1], "action": "repin"})
    rows.write_parquet(folder / "a.parquet")
    (tmp_path / "landing" / "dictionaries").mkdir()
    names = pl.DataFrame({"id": [4, 17], "original": ["bob", "alice"]})
    names.write_parquet(tmp_path / "landing" / "dictionaries" / "users.parquet")
    landing = {"PINNERSAGE_SOURCE": "landing"}

    refused = run(tmp_path, "erase", "--original", "carol", "--yes", **landing)
    assert refused.returncode == 1
    assert "no users were imported as 'carol'" in refused.stderr
    assert run(tmp_path, "erase", "17", stdin="n\n", **landing).returncode == 1
    assert pl.read_parquet(folder / "a.parquet").equals(rows)

    done = run(tmp_path, "erase", "--original", "alice", "--yes", **landing)
    assert done.returncode == 0, done.stderr
    found = {line[:45].strip(): line[45:].split() for line in done.stdout.splitlines()[1:] if line[45:].split()}
    assert found["landing files, rows"] == ["2", "0"]
    assert found["dictionary of users, names"] == ["1", "0"]
    assert "make backfill STALE=1" in done.stdout
    assert pl.read_parquet(folder / "a.parquet")["user_id"].to_list() == [4]


def test_nobody_is_erased_while_events_are_taken_in(tmp_path):
    with alone(tmp_path / "serving"):
        done = run(tmp_path, "erase", "17", "--yes")
    assert done.returncode == 1
    assert "another consumer runs" in done.stderr
    assert "Traceback" not in done.stderr
