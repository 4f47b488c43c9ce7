"""The settings file and the environment variables: what they mean, and what a mistake in them says."""

import datetime

import pytest

from pinnersage_assets.model.variants import Variant
from pinnersage_assets.settings import SIMULATED_START_DATE, Settings, load_settings, read_environment


def write(tmp_path, text):
    path = tmp_path / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_without_a_file_the_numbers_are_the_papers(tmp_path):
    settings = load_settings(tmp_path / "settings.toml")
    assert settings == Settings()
    assert settings.window.days == 90
    assert settings.window.interest_actions == ["repin", "click"]
    assert settings.clustering.decay_per_day == 0.01
    assert (settings.retrieval.sampled_medoids, settings.retrieval.budget) == (3, 400)
    assert settings.evaluation.relevance_cosine == 0.8


def test_a_file_changes_what_it_names_and_nothing_else(tmp_path):
    path = write(tmp_path, 'seed = 7\n[window]\ndays = 14\ninterest_actions = ["buy"]\n[clustering]\nalpha = 0\n')
    settings = load_settings(path)
    assert (settings.seed, settings.window.days, settings.window.interest_actions) == (7, 14, ["buy"])
    assert settings.clustering.alpha == 0
    assert settings.clustering.decay_per_day == Settings().clustering.decay_per_day
    assert settings.retrieval == Settings().retrieval


def test_models_of_ones_own_differ_from_the_papers_in_what_is_named(tmp_path):
    text = "[models.many]\nembeddings = 20\nshares = 'importance'\n[models.finer]\nalpha = 0.5\n"
    models = load_settings(write(tmp_path, text)).models
    assert models["many"].variant() == Variant(embeddings=20, shares="importance")
    assert models["finer"].variant() == Variant(alpha=0.5)


def test_the_day_after_the_validation_period_may_be_judged(tmp_path):
    text = "[calibration]\nuntil = '2026-03-14'\n[evaluation]\nsince = '2026-03-15'"
    assert load_settings(write(tmp_path, text)).evaluation.since == "2026-03-15"


@pytest.mark.parametrize(
    ("text", "graph", "longest"),
    [("[window]\ndays = 14", 14, 14), ("[graph]\ndays = 7", 7, 90), ("[graph]\ndays = 180", 180, 180)],
)
def test_the_graph_is_of_the_window_or_of_days_of_its_own(tmp_path, text, graph, longest):
    settings = load_settings(write(tmp_path, text))
    assert (settings.graph_days, settings.longest_window) == (graph, longest)


def test_an_empty_file_means_the_defaults(tmp_path):
    assert load_settings(write(tmp_path, "")) == Settings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[window]\ndasy = 14", "window.dasy"),
        ("[windwo]\ndays = 14", "windwo"),
        ("days = 14", "days"),
        ("[window]\ndays = 0", "window.days"),
        ("[graph]\nboards = 'baskets'", "graph.boards"),
        ("[window]\ndays = 'many'", "window.days"),
        ("[window]\ninterest_actions = 'repin'", "window.interest_actions"),
        ("window = 14", "window"),
        ("[clustering]\nalpha = -1", "clustering.alpha"),
        ("[corpus]\nnear_duplicate_cosine = 1.5", "corpus.near_duplicate_cosine"),
        ("[index]\ndtype = 'f64'", "index.dtype"),
        ("[retrieval]\nsampled_medoids = 0\nbudget = 0", r"retrieval.sampled_medoids.*retrieval.budget"),
        ("seed = -1", "seed"),
        ("[calibration]\nuse = 'best'", "calibration.use"),
        ("[calibration]\nalphas = []", "calibration.alphas"),
        ("[calibration]\nmedoids = [3, 0]", "calibration.*embeddings must be an integer >= 1"),
        ("[calibration]\nshares = ['fair']", "calibration.*shares must be one of equal, importance"),
        ("[calibration]\nuntil = 'soon'", "'soon' is not a date such as 2026-01-31"),
        (
            "[calibration]\nuntil = '2026-03-14'\n[evaluation]\nsince = '2026-03-14'",
            "first actions are of 2026-03-14 .*overlaps the validation period that ends on 2026-03-14",
        ),
        (
            "[calibration]\nuntil = '2026-03-14'\n[evaluation]\nsince = '2026-03-16'\nhorizon_days = 3",
            "first actions are of 2026-03-14 .*overlaps the validation period",
        ),
        ("[evaluation]\nhorizon_days = 0", "evaluation.horizon_days"),
        ("[models.dt]\nembeddings = 4", "models cannot be named dt"),
        ("[models.mine]\nembeddings = 0", "models.mine.*embeddings must be an integer >= 1"),
        ("[models.mine]\nclustering = 'kmeans'", "models.mine.*clustering must be one of"),
        ("[models.mine]\nlinkage = 'ward'", "models.mine.linkage"),
        ("[models.popular]\nembeddings = 4", "models cannot be named popular"),
        ("[clustering]\nalpha = nan", "clustering.alpha"),
        ("[clustering]\ndecay_per_day = inf", "clustering.decay_per_day"),
        ("[window\ndays = 14", "is not a TOML file"),
        ("[retention]\nraw_days = -1", "retention.raw_days"),
        ("[index]\nretention_days = 7", "index.retention_days: there is no such setting"),
        (
            "[retention]\nrecommendations_days = 2\n[evaluation]\nhorizon_days = 3",
            r"retention\.recommendations_days is 2 and must be at least 3, or 0 \(for ever\): .*horizon_days",
        ),
        (
            "[retention]\nindex_days = 1\n[evaluation]\nhorizon_days = 2",
            r"retention\.index_days is 1 and must be at least 2",
        ),
        ("[retention]\ncorpus_days = 6", r"retention\.corpus_days is 6 and must be at least 7.*an index grows"),
        ("[retention]\nindex_days = 0", r"retention\.corpus_days is 7 and must be 0 \(for ever\): an index grows"),
        (
            "[retention]\nevaluation_days = 28",
            r"retention\.evaluation_days is 28 and must be at least 29.*trailing_days, 30",
        ),
        ("[evaluation]\ntrailing_days = 120", r"retention\.evaluation_days is 90 and must be at least 119"),
    ],
)
def test_a_mistake_names_the_file_and_the_setting(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=message) as raised:
        load_settings(path)
    assert str(path) in str(raised.value)


def test_a_file_that_is_not_text_is_said(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not a TOML file"):
        load_settings(path)


# --- The environment


def test_without_variables_data_is_simulated_in_the_folder_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    environment = read_environment({})
    assert environment.data_dir == tmp_path / "data"
    assert (environment.source, environment.start_date) == ("simulated", SIMULATED_START_DATE)
    assert read_environment(dict.fromkeys(("PINNERSAGE_DATA_DIR", "PINNERSAGE_SOURCE", "PINNERSAGE_START_DATE"), ""))


@pytest.mark.parametrize("given", ["elsewhere", "./elsewhere", "{tmp}/elsewhere"])
def test_the_data_directory_is_absolute_and_stays_where_it_was(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    environment = read_environment({"PINNERSAGE_DATA_DIR": given.format(tmp=tmp_path)})
    monkeypatch.chdir("/")
    assert environment.data_dir.is_absolute()
    assert environment.data_dir == tmp_path / "elsewhere"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"PINNERSAGE_SOURCE": "kafka"}, "PINNERSAGE_SOURCE is 'kafka'; it must be one of simulated, landing"),
        ({"PINNERSAGE_START_DATE": "yesterday"}, "PINNERSAGE_START_DATE is 'yesterday'; it must be a date"),
        ({"PINNERSAGE_START_DATE": "2026-02-30"}, "PINNERSAGE_START_DATE is '2026-02-30'; it must be a date"),
    ],
)
def test_a_variable_that_means_nothing_is_named(variables, message):
    with pytest.raises(ValueError, match=message):
        read_environment(variables)


def start_date(tmp_path, *folders, **variables):
    for folder in folders:
        (tmp_path / "landing" / folder).mkdir(parents=True)
    return read_environment(
        {"PINNERSAGE_DATA_DIR": str(tmp_path), "PINNERSAGE_SOURCE": "landing", **variables}
    ).start_date


def test_the_first_partition_is_the_first_landed_day_of_any_table(tmp_path):
    folders = ("actions/dt=2025-03-02", "pins/dt=2025-03-01", "impressions/dt=2025-04-01", "actions/dt=2025-03-05")
    assert start_date(tmp_path, *folders) == datetime.date(2025, 3, 1)
    assert start_date(tmp_path, "board_pins/dt=2025-02-01") == datetime.date(2025, 2, 1)


def test_a_start_date_that_is_said_wins(tmp_path):
    folders = ("actions/dt=2025-03-02",)
    assert start_date(tmp_path, *folders, PINNERSAGE_START_DATE="2025-01-31") == datetime.date(2025, 1, 31)


@pytest.mark.parametrize(
    "odd",
    [
        "dt=2026-13-01",
        "dt=0000-00-00",
        "dt=late-st-xx",
        "dt=latest-xx",
        "dt=latest",
        "dt=",
        "dt=20240101",
        "dt=2024-W1-01",
        "2024-01-01",
        ".dt=2024-01-01",
        "_dt=2024-01-01",
    ],
)
def test_folders_that_name_no_day_do_not_count(tmp_path, odd):
    assert start_date(tmp_path, f"actions/{odd}") == SIMULATED_START_DATE
    assert start_date(tmp_path, "actions/dt=2026-03-02") == datetime.date(2026, 3, 2)


def test_only_the_folders_of_the_three_tables_count(tmp_path):
    (tmp_path / "landing/actions").mkdir(parents=True)
    (tmp_path / "landing/actions/dt=2024-01-01").write_text("a file")
    assert start_date(tmp_path, "refused/dt=2024-01-01", "pins/dt=2026-03-02") == datetime.date(2026, 3, 2)


def test_a_budget_that_leaves_a_medoid_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"retrieval.*a budget of 2 leaves nothing to each of 3 medoids"):
        load_settings(write(tmp_path, "[retrieval]\nbudget = 2\n"))


def test_what_is_wrong_with_two_settings_together_is_said_without_a_name(tmp_path):
    (tmp_path / "settings.toml").write_text('[serving]\nstream = "redis"\n')
    with pytest.raises(ValueError, match=r"cannot be used: serving\.stream is redis, and"):
        load_settings(tmp_path / "settings.toml")


@pytest.mark.parametrize(
    "text",
    [
        "[retention]\nevaluation_days = 29",
        "[retention]\nevaluation_days = 0\n[evaluation]\ntrailing_days = 1000",
        "[retention]\ncorpus_days = 0\nindex_days = 0",
        "[retention]\ncorpus_days = 3\nindex_days = 3\nrecommendations_days = 3\n[evaluation]\nhorizon_days = 3",
        "[retention]\nraw_days = 1\nclusters_days = 1\nmedoids_days = 1\nneighbours_days = 1\nsnapshot_days = 1",
    ],
)
def test_what_nothing_reads_back_may_go_and_all_may_stay(tmp_path, text):
    assert load_settings(write(tmp_path, text)) != Settings()
