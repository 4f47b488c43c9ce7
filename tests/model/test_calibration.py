"""The grid of settings and the choice among them."""

import itertools

import polars as pl
import pytest

from pinnersage_assets.model.calibration import COLUMNS, FAMILIES, choose, grid, variant_of
from pinnersage_assets.model.variants import VARIANTS, Variant


def trial(family, *choice, relevance, recall, users):
    return dict(zip(COLUMNS, (family, *choice), strict=True)) | {
        "relevance": relevance,
        "recall": recall,
        "users": users,
    }


def chosen(trials):
    return choose(pl.DataFrame(trials, infer_schema_length=None)).filter("chosen").select(COLUMNS).rows()


def test_the_grid_has_every_combination_once():
    found = grid([0.5, 1.0, 0.5], [0.0, 0.1], [3, 20], ["equal", "importance"], ["medoid"], [1, 20])
    rows = found.rows()
    assert len(set(rows)) == len(rows)
    pinnersage = {row[1:] for row in rows if row[0] == "pinnersage"}
    assert pinnersage == set(itertools.product([0.5, 1.0], [0.0, 0.1], [3, 20], ["equal", "importance"], ["medoid"]))
    assert {row[2] for row in rows if row[0] == "single_vector"} == {0.0, 0.1}
    assert {row[3] for row in rows if row[0] == "last_pins"} == {1, 20}
    assert set(found["family"]) == set(FAMILIES)


def test_candidates_are_the_models_of_table_4_where_these_have_the_same_numbers():
    assert variant_of("last_pins", None, None, 20, None, None) == VARIANTS["last_20_pins"]
    assert variant_of("pinnersage", None, 0.01, 3, "equal", "medoid") == Variant()
    single = variant_of("single_vector", None, 0.1, None, None, None)
    assert (single.clustering, single.representation, single.decay_per_day) == ("all", "decayed_centroid", 0.1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (([-1.0], [0.0], [3], ["equal"], ["medoid"], [1]), "alpha must be"),
        (([1.0], [-0.1], [3], ["equal"], ["medoid"], [1]), "decay_per_day must be"),
        (([1.0], [0.0], [0], ["equal"], ["medoid"], [1]), "embeddings must be an integer >= 1"),
        (([1.0], [0.0], [3], ["fair"], ["medoid"], [1]), "shares must be one of equal, importance"),
        (([1.0], [0.0], [3], ["equal"], ["medoid"], [0]), "embeddings must be an integer >= 1"),
    ],
)
def test_a_grid_with_an_impossible_value_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        grid(*values)


def test_an_unknown_family_is_refused():
    with pytest.raises(ValueError, match="family must be one of pinnersage, single_vector, last_pins, not 'oracle'"):
        variant_of("oracle", None, None, None, None, None)


def test_days_are_pooled_by_users():
    # By days the first is better, (0.9 + 0.1) / 2 against 0.4; by users the second.
    trials = [
        trial("last_pins", None, None, 5, None, None, relevance=0.9, recall=0.9, users=1),
        trial("last_pins", None, None, 5, None, None, relevance=0.1, recall=0.1, users=99),
        trial("last_pins", None, None, 20, None, None, relevance=0.4, recall=0.2, users=1),
        trial("last_pins", None, None, 20, None, None, relevance=0.4, recall=0.2, users=99),
    ]
    rows = choose(pl.DataFrame(trials)).sort("embeddings").to_dicts()
    assert [row["recall"] for row in rows] == pytest.approx([0.108, 0.2])
    assert [row["score"] for row in rows] == pytest.approx([0.108, 0.3])
    assert [(row["users"], row["days"], row["chosen"]) for row in rows] == [(100, 2, False), (100, 2, True)]


def test_relevance_and_recall_count_alike():
    trials = [
        trial("single_vector", None, 0.0, None, None, None, relevance=0.5, recall=0.2, users=10),
        trial("single_vector", None, 0.1, None, None, None, relevance=0.4, recall=0.31, users=10),
        trial("single_vector", None, 0.2, None, None, None, relevance=0.6, recall=0.1, users=10),
    ]
    assert chosen(trials) == [("single_vector", None, 0.1, None, None, None)]


def test_one_of_each_family_is_chosen_and_the_cheaper_of_equals():
    equal = {"relevance": 0.5, "recall": 0.5, "users": 7}
    trials = [
        trial("pinnersage", 0.6, 0.1, 20, "equal", "medoid", **equal),
        trial("pinnersage", 0.6, 0.1, 3, "importance", "medoid", **equal),
        trial("pinnersage", 1.4, 0.1, 3, "equal", "medoid", **equal),
        trial("pinnersage", 1.4, 0.0, 3, "importance", "medoid", **equal),
        trial("pinnersage", 1.4, 0.0, 3, "equal", "decayed_medoid", **equal),
        trial("pinnersage", 1.4, 0.0, 3, "equal", "medoid", **equal),
        trial("last_pins", None, None, 50, None, None, **equal),
        trial("last_pins", None, None, 5, None, None, **equal),
    ]
    expected = [("last_pins", None, None, 5, None, None), ("pinnersage", 1.4, 0.0, 3, "equal", "medoid")]
    for some in itertools.islice(itertools.permutations(trials), 0, 40320, 4001):
        assert sorted(chosen(list(some))) == expected


def test_candidates_that_are_new_in_the_grid_wait_until_they_have_seen_all_days():
    trials = [
        trial("last_pins", None, None, 5, None, None, relevance=0.1, recall=0.1, users=10),
        trial("last_pins", None, None, 5, None, None, relevance=0.1, recall=0.1, users=10),
        trial("last_pins", None, None, 9, None, None, relevance=0.9, recall=0.9, users=10),
    ]
    assert choose(pl.DataFrame(trials))["embeddings"].to_list() == [5]


def test_a_family_whose_grid_has_changed_is_still_chosen_from():
    measured = {"relevance": 0.1, "recall": 0.1, "users": 10}
    trials = [trial("last_pins", None, None, 5, None, None, **measured)] * 3
    trials += [trial("pinnersage", alpha, 0.1, 3, "equal", "medoid", **measured) for alpha in (0.3, 0.3, 0.9)]
    assert {row[:2] for row in chosen(trials)} == {("last_pins", None), ("pinnersage", 0.3)}


def test_of_no_trials_nothing_is_chosen():
    schema = {
        **grid([1.0], [0.0], [3], ["equal"], ["medoid"], [1]).schema,
        "relevance": pl.Float64,
        "recall": pl.Float64,
    }
    assert choose(pl.DataFrame(schema={**schema, "users": pl.Int64})).is_empty()
