"""Lineage of columns is what a reader of the SQL, or of the code, says, and names nothing that is not there."""

import dataclasses

import dagster as dg
import pytest

from pinnersage_assets.definitions import defs
from pinnersage_assets.warehouse.column_lineage import column_lineage, declared_lineage, in_words
from pinnersage_assets.warehouse.sql_models import load_sql_models
from pinnersage_assets.warehouse.tables import all_tables

MODELS = load_sql_models()
ASSETS = {".".join(spec.key.path): spec for spec in defs.resolve_all_asset_specs()}
# What comes in, and what runs say of themselves, comes from no table.
WRITTEN_BY_PYTHON = [t for t in ASSETS if t not in MODELS and not t.startswith(("raw.", "operations."))]

# What is an input only under other settings than those of the tests: calibration.use, feedback.strength, graph.boards,
# pixie.queries.
_CHOICES = {"evaluation.calibration"}
INPUTS_OF_SETTINGS = {
    "users.clusters": _CHOICES,
    "users.medoids": {*_CHOICES, "staging.impressions"},
    "graph.edges": {"staging.actions"},
    "retrieval.pixie_recommendations": {"users.medoids"},
    "retrieval.hnsw_index": _CHOICES,
    "serving.snapshot": _CHOICES,
}

# Numbers that are settings, the paper's, or times.
FROM_NO_COLUMN = {
    "graph.snapshot": {"degree_exponent"},
    "retrieval.hnsw_index": {"build_seconds"},
    "evaluation.calibration_trials": {"alpha", "decay_per_day"},
    "evaluation.protocol": {"relevance_cosine"},
    "evaluation.board_holdout": {"degree_exponent", "paper_hit_rate"},
    "evaluation.index_cost": {"paper_relative_cost", "seconds"},
}


def inputs(table):
    return {".".join(dep.asset_key.path) for dep in ASSETS[table].deps}


def lineage_of(table):
    return ASSETS[table].metadata["dagster/column_lineage"].deps_by_column


@pytest.mark.parametrize(
    ("column", "origins"),
    [
        # Through an ephemeral model, and a star.
        ("staging.actions.user_id", {"raw.actions.user_id"}),
        ("staging.pins.embedding", {"raw.pins.embedding"}),
        # Of a union, all parts.
        ("staging.rejected.dt", {f"raw.{source}.dt" for source in ("actions", "impressions", "board_pins", "pins")}),
        ("staging.rejected.source", set()),
        # An alias; another table's column.
        ("marts.interests.actions", {"users.medoids.size"}),
        ("marts.interests.title", {"staging.pins.title"}),
        # A window, with its order and its parts.
        (
            "marts.interests.interest",
            {f"users.medoids.{name}" for name in ("dt", "user_id", "importance", "medoid_pin_id")},
        ),
        # An aggregate over an aggregate; a filter of an aggregate; rows that are counted.
        ("marts.clusters_per_user.mean_actions", {"users.medoids.size"}),
        ("marts.daily_engagement.repins", {"staging.actions.action"}),
        ("marts.daily_engagement.impressions", set()),
        # A table that is joined to itself; constants of the paper.
        ("marts.retrieval_lifts.recall_lift", {"evaluation.retrieval.recall"}),
        ("marts.retrieval_lifts.paper_recall_lift", set()),
        # What Python computes: an id whose vector is looked up counts, and a count of rows does not.
        ("users.clusters.cluster", {"staging.actions.pin_id", "staging.pins.embedding"}),
        ("users.clusters.actions", set()),
        ("users.medoids.size", {"users.clusters.actions"}),
        ("evaluation.retrieval.recall", {"evaluation.retrieval_users.recalled", "evaluation.retrieval_users.targets"}),
        ("evaluation.report.sha256", set()),
        # What comes in comes from outside.
        ("raw.pins.embedding", set()),
    ],
)
def test_a_column_comes_from(column, origins):
    table, _, name = column.rpartition(".")
    found = {".".join([*origin.asset_key.path, origin.column_name]) for origin in lineage_of(table)[name]}
    assert found == origins


@pytest.mark.parametrize("table", ASSETS)
def test_lineage_is_of_all_columns_and_names_columns_of_tables_that_are_read(table):
    lineage = lineage_of(table)
    assert lineage.keys() == {column.name for column in all_tables()[table].columns}
    for origin in {origin for origins in lineage.values() for origin in origins}:
        upstream = ".".join(origin.asset_key.path)
        assert upstream in inputs(table)
        assert origin.column_name in {column.name for column in all_tables()[upstream].columns}


@pytest.mark.parametrize("table", WRITTEN_BY_PYTHON)
def test_what_schema_yml_says_of_a_table_that_python_writes_is_of_its_inputs(table):
    declared = {origin for column in all_tables()[table].columns for origin, _ in column.origins}
    assert declared <= inputs(table) | INPUTS_OF_SETTINGS.get(table, set())


@pytest.mark.parametrize("table", WRITTEN_BY_PYTHON)
def test_what_cannot_come_from_nowhere_has_origins(table):
    """Ids of users and pins, and whatever is no name, count, setting or time."""
    bare = {c.name: c.type for c in all_tables()[table].columns if not c.origins} | {"dt": "DATE"}
    assert not [name for name in bare if "user_id" in name or "pin_id" in name]
    measured = {
        name for name, kind in bare.items() if kind in ("FLOAT", "DOUBLE", "TIMESTAMP", "BOOLEAN") or "[" in kind
    }
    assert measured == FROM_NO_COLUMN.get(table, set())


def test_what_a_setting_brings_in_is_named_only_where_it_is_read():
    table = all_tables()["users.clusters"]
    for reads in ({"staging.actions", "staging.pins"}, {"staging.actions", "staging.pins", "evaluation.calibration"}):
        found = declared_lineage(table, reads).deps_by_column["cluster"]
        assert {".".join(origin.asset_key.path) for origin in found} == reads


def test_the_ui_shows_it_in_the_description_of_a_column():
    [actions] = [c for c in ASSETS["marts.interests"].metadata["dagster/column_schema"].columns if c.name == "actions"]
    assert actions.description == "Actions of the window that it stands for. From users.medoids (size)."
    [size] = [c for c in ASSETS["users.medoids"].metadata["dagster/column_schema"].columns if c.name == "size"]
    assert size.description.endswith("nearest to this one. From users.clusters (actions).")
    two = [dg.TableColumnDep(dg.AssetKey(["b", "t"]), "y"), dg.TableColumnDep(dg.AssetKey(["a", "t"]), "x")]
    assert in_words([*two, dg.TableColumnDep(dg.AssetKey(["b", "t"]), "z")]) == "From b.t (y, z), a.t (x)."
    assert in_words([]) == ""


def test_sql_that_only_duckdb_understands_has_no_lineage():
    model = dataclasses.replace(MODELS["marts.interests"], text="select columns(lambda c: ) from users.medoids")
    assert column_lineage(model, all_tables()) is None
