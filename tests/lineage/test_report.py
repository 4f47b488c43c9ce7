"""The page of a day, made by the real graph."""

import hashlib

import polars as pl
import pytest
from conftest import LAST
from world import START, failures, small_settings

TABLE = "evaluation.report"


def page_of(world, day):
    [row] = world.partition(TABLE, day).to_dicts()
    content = (world.data / row["path"]).read_bytes()
    assert row["path"] == f"reports/dt={day}/index.html"
    assert (row["bytes"], row["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    return content.decode()


@pytest.fixture(scope="module")
def page(world):
    return page_of(world, LAST)


def test_the_page_shows_what_the_tables_hold(world, page):
    users = world.partition("evaluation.retrieval", LAST)["users"].max()
    assert f"<dt>{users}</dt><dd>users judged</dd>" in page
    best = world.partition("evaluation.intervals", LAST).filter(metric="recall", baseline="last_20_pins")
    [row] = best.filter(model="recommended").to_dicts()
    assert f"[{row['low']:.3f}, {row['high']:.3f}]".replace("-", "−") in page
    for title in ("Table 2", "Table 1", "Figure 7", "Embeddings per user", "Data volumes", "Hit rate at 100"):
        assert title in page
    assert page.count('<details class="user"') == 4


def test_users_are_shown_with_their_medoids_and_recommendations(world, page):
    titles = dict(world.read("SELECT pin_id, title FROM staging.pins").rows())
    for text in page.split('<span class="name">User ')[1:]:
        user = int(text.partition("<")[0])
        medoids = world.partition("users.medoids", LAST).filter(user_id=user)
        shares = medoids.sort("importance", "medoid_pin_id", descending=[True, False])
        first = titles[shares["medoid_pin_id"][0]] or f"pin {shares['medoid_pin_id'][0]}"
        assert first in text.partition('class="pins"')[2].partition("</li>")[0]
        recommended = world.partition("retrieval.recommendations", LAST).filter(user_id=user).sort("rank")
        top = shares.filter(pl.col("medoid_pin_id").is_in(recommended["medoid_pin_id"].unique().to_list()))
        for medoid in top["medoid_pin_id"][:3]:
            nearest = recommended.filter(medoid_pin_id=medoid)["pin_id"][0]
            assert titles[nearest] in text.partition("What is recommended")[2]


def test_the_metadata_link_to_the_page_and_a_second_run_gives_the_same_bytes(world, page, tmp_path):
    sections = {name: getattr(world.settings, name).model_dump() for name in ("window", "simulation", "evaluation")}
    copy = world.copy(tmp_path / "data", small_settings(**sections, report={"address": "http://here:1/"}))
    (copy.data / "reports" / f"dt={LAST}" / "index.html").write_text("half of a pa")
    result = copy.run("daily", LAST, only=[TABLE])
    assert failures(result) == {}
    assert page_of(copy, LAST) == page
    assert [file.name for file in (copy.data / "reports" / f"dt={LAST}").iterdir()] == ["index.html"]
    [event] = result.get_asset_materialization_events()
    metadata = event.materialization.metadata
    assert metadata["page"].url == f"http://here:1/dt={LAST}/index.html"
    assert metadata["path"].path == str(copy.data / "reports" / f"dt={LAST}" / "index.html")


def test_a_day_without_actions_or_impressions_has_an_explained_page(world, tmp_path):
    copy = world.copy(tmp_path / "data")
    statements = [f"DELETE FROM {table} WHERE dt = $day" for table in ("staging.actions", "staging.impressions")]
    copy.execute(*statements, day=LAST)
    evaluation = ("next_action", "retrieval_users", "retrieval", "ranking_users", "ranking", "diversity", "intervals")
    lifts = [f"marts.{name}_lifts" for name in ("next_action", "retrieval", "ranking")]
    assert failures(copy.run("daily", LAST, only=[*(f"evaluation.{name}" for name in evaluation), *lifts, TABLE])) == {}
    page = page_of(copy, LAST)
    assert "Nothing was judged on this day." in page
    assert "What follows is of the days before it" in page
    assert page.count('<details class="user"') == 4


def test_a_first_day_has_a_page_too(world, tmp_path):
    copy = world.copy(tmp_path / "data")
    result = copy.run("daily", START, only=[TABLE])
    assert not copy.partition(TABLE, START).is_empty()
    page = page_of(copy, START)
    assert "Nothing was judged on this day." in page
    assert "Nobody has clusters on this day" in page
    assert set(failures(result)) <= {"evaluation__report__checks"}
