"""The command line: what it says of mistakes, and that the prompt answers."""

import datetime
import os
import subprocess
import sys

import duckdb
import pytest


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
