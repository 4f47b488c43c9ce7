"""The marts that print Tables 1, 4 and 5: every row of the paper, and ours beside it where we measure the model."""

import pytest
from conftest import LAST

# As printed: of each row of the paper its lifts in per cent.
TABLE_1 = {"last_pin": (0,), "decay_average": (25,), "k_means_oracle": (98,), "oracle": (140,)}
TABLE_4 = {
    "lstm": (None, None),
    "gru": (None, None),
    "last_pin": (0, 0),
    "decay_average": (28, 14),
    "hier_tcn": (31, 16),
    "pinnersage_sample_1": (33, 18),
    "pinnersage_k_means": (91, 68),
    "pinnersage_complete_linkage": (88, 65),
    "pinnersage_centroid": (105, 81),
    "pinnersage_hier_tcn": (110, 88),
    "pinnersage_decay_0": (97, 72),
    "pinnersage_decay_0.1": (94, 69),
    "pinnersage": (110, 88),
}
TABLE_5 = {
    "last_pin": (0, 0),
    # Baselines of section 5.1 for which no table has figures.
    "lstm": (None, None),
    "gru": (None, None),
    "decay_average": (8, 7),
    "hier_tcn": (21, 16),
    "pinnersage_sample_1": (24, 18),
    "pinnersage_k_means": (32, 24),
    "pinnersage_complete_linkage": (29, 22),
    "pinnersage_centroid": (37, 28),
    "pinnersage_hier_tcn": (37, 28),
    "pinnersage_decay_0": (31, 24),
    "pinnersage_decay_0.1": (30, 24),
    "pinnersage": (37, 28),
}
LIFTS = [
    ("marts.next_action_lifts", "evaluation.next_action", ["accuracy"], TABLE_1),
    ("marts.retrieval_lifts", "evaluation.retrieval", ["relevance", "recall"], TABLE_4),
    ("marts.ranking_lifts", "evaluation.ranking", ["r_precision", "reciprocal_rank"], TABLE_5),
]


@pytest.mark.parametrize(("mart", "table", "metrics", "paper"), LIFTS)
def test_lifts_are_over_the_last_pin_beside_those_of_the_paper(world, mart, table, metrics, paper):
    measured = {(row["model"], row.get("negatives")): row for row in world.partition(table, LAST).to_dicts()}
    printed = "impressions" if "ranking" in mart else None
    rows = {(row["model"], row.get("negatives")): row for row in world.partition(mart, LAST).to_dicts()}
    assert set(rows) == set(measured) | {(model, printed) for model in paper}
    trained = {model for model in paper if "tcn" in model or model in ("lstm", "gru")}
    assert {model for (model, _), row in rows.items() if not row["reproduced"]} == trained
    for (model, negatives), row in rows.items():
        own, base = measured.get((model, negatives)), measured["last_pin", negatives]
        for place, metric in enumerate(metrics):
            printed_lift = paper[model][place] if model in paper and negatives == printed else None
            of_paper = None if printed_lift is None else printed_lift / 100
            assert row[f"paper_{metric}_lift"] == of_paper
            assert row[metric] == (own and own[metric])
            assert row[f"{metric}_lift"] == (own and pytest.approx(own[metric] / base[metric] - 1))
        for name in ("users", "set_size", "actions", "padded_share"):
            if name in row:
                assert row[name] == (own and own[name])


@pytest.mark.parametrize(("mart", "table"), [lifts[:2] for lifts in LIFTS])
def test_a_day_that_was_not_evaluated_lists_nothing(world, tmp_path, mart, table):
    copy = world.copy(tmp_path / "data")
    copy.execute(f"DELETE FROM {table} WHERE dt = $day", day=LAST)
    assert copy.run("daily", LAST, only=[mart]).success
    assert copy.partition(mart, LAST).is_empty()
