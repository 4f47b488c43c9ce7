"""Online Retail II from its sheet to recommendations and evaluation, by the command that `make backfill` calls."""

import datetime
import os
import shutil
import subprocess
import sys
from pathlib import Path

import duckdb
import polars as pl
import pytest

from pinnersage_assets.model.variants import CONTROLS, VARIANTS
from pinnersage_assets.sources.online_retail import import_online_retail

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]
SHEET = REPOSITORY.parent / "shared/data/online_retail_II/transactions_2009-12_2010-12.parquet"
FIRST, FIT_BEFORE, DAY = (datetime.date(2010, *month_and_day) for month_and_day in ((11, 8), (11, 15), (11, 16)))
SETTINGS = """
[window]
days = 7
[retrieval]
budget = 90
[graph]
boards = "sessions"
session_minutes = 0
# How often what is random is drawn anew is no matter here, and takes most of the time.
[evaluation]
seeds = 2
[calibration]
users = 50
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The published copy after a backfill of one day, eight days after the slice begins."""
    if not SHEET.exists():
        pytest.skip(f"{SHEET} is missing: README.md, Online Retail II, says where to get it")
    folder = tmp_path_factory.mktemp("retail")
    data = folder / "data"
    in_slice = pl.col("InvoiceDate").cast(pl.String).str.slice(0, 10).is_between(pl.lit(str(FIRST)), pl.lit(str(DAY)))
    pl.read_parquet(SHEET).filter(in_slice).write_parquet(folder / "sheet.parquet")
    import_online_retail(folder / "sheet.parquet", data / "landing", FIT_BEFORE, dimensions=32)
    (data / "settings.toml").write_text(SETTINGS)
    (data / "dagster_home").mkdir()
    shutil.copy(REPOSITORY / "data" / "dagster_home" / "dagster.yaml", data / "dagster_home")
    finished = subprocess.run(
        [sys.executable, "-m", "pinnersage_assets", "backfill", "--from", str(DAY), "--to", str(DAY)],
        cwd=folder,
        env={
            **os.environ,
            "PINNERSAGE_DATA_DIR": str(data),
            "PINNERSAGE_SOURCE": "landing",
            "DAGSTER_HOME": str(data / "dagster_home"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout[-2000:] + finished.stderr[-4000:]
    assert f"The whole lineage of {DAY} to {DAY} is done." in finished.stdout
    with duckdb.connect(str(data / "published" / "pinnersage.duckdb"), read_only=True) as connection:
        yield connection


def rows(connection, query):
    return connection.sql(query, params={"day": DAY} if "$day" in query else {}).pl()


def test_staging_refuses_only_what_an_invoice_lists_twice(published):
    refused = rows(published, "SELECT source, reason, count(*) AS n FROM staging.rejected GROUP BY ALL")
    assert refused.select("source", "reason").rows() == [("actions", "duplicate of another row of the day")]
    assert refused["n"].item() < 0.06 * rows(published, "SELECT count(*) AS n FROM raw.actions")["n"].item()
    days = rows(published, "SELECT min(dt) AS first, max(dt) AS last, count(DISTINCT dt) AS n FROM staging.actions")
    first, last, n = days.row(0)
    assert (first, last) == (DAY - datetime.timedelta(days=7), DAY)
    assert n < 8  # the shop is closed on Saturdays


def test_invoices_are_the_boards_of_the_graph(published):
    # An invoice is what a customer bought at a moment.
    found = rows(
        published,
        "SELECT user_id, first_ts, list(pin_id ORDER BY pin_id) FROM graph.edges WHERE dt = $day "
        "GROUP BY board_id, user_id, first_ts ORDER BY ALL",
    )
    bought = rows(
        published,
        "SELECT user_id, ts, list(DISTINCT pin_id ORDER BY pin_id) FROM staging.actions WHERE dt > $day - 7 "
        "AND pin_id IN (SELECT pin_id FROM staging.pins) GROUP BY user_id, ts ORDER BY ALL",
    )
    assert found.rows() == bought.rows()
    assert len(found) > 100
    boards = rows(published, "SELECT count(DISTINCT board_id) FROM graph.edges WHERE dt = $day").item()
    assert boards == len(found)


def test_customers_have_interests_that_read_as_such(published):
    interests = rows(published, "FROM marts.interests WHERE dt = $day")
    assert interests["user_id"].n_unique() > 200
    assert interests["title"].null_count() < 0.05 * interests.height
    of_one = interests.group_by("user_id").agg(pl.sum("share"))["share"]
    assert of_one.is_close(1.0).all()
    assert interests.height > 2 * interests["user_id"].n_unique()


def test_customers_get_recommendations_of_what_they_have_not_bought(published):
    found = rows(published, "FROM retrieval.recommendations WHERE dt = $day")
    customers = rows(published, "SELECT DISTINCT user_id FROM users.medoids WHERE dt = $day")
    assert found["user_id"].n_unique() == customers.height
    sizes = found.group_by("user_id").len()["len"]
    assert sizes.max() <= 90
    assert sizes.median() > 50
    assert found["score"].is_between(-1.001, 1.001).all()
    bought_again = rows(
        published,
        """
        SELECT count(*) AS n FROM retrieval.recommendations AS r
        JOIN staging.actions AS a ON r.user_id = a.user_id AND r.pin_id = a.pin_id
        WHERE r.dt = $day AND a.dt > $day - 7
        """,
    )
    assert bought_again["n"].item() == 0


def test_models_are_judged_on_the_purchases_of_the_day(published):
    found = {row["model"]: row for row in rows(published, "FROM evaluation.retrieval WHERE dt = $day").to_dicts()}
    assert set(found) == {*VARIANTS, *CONTROLS}
    for row in found.values():
        assert row["users"] == found["random"]["users"] >= 10
        assert 0 <= row["recall"] <= row["relevance"] <= 1
        assert 0 < row["set_size"] <= 90
    # Purchases are anything but random, with vectors that know nothing of the day.
    assert max(found["decay_average"]["recall"], found["pinnersage"]["recall"]) > found["random"]["recall"]
    pins = rows(published, "SELECT max(len(embedding)) AS n, count(*) AS pins FROM staging.pins").row(0)
    assert pins[0] == 32
    assert pins[1] > 500
