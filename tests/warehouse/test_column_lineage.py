"""Lineage of columns is what a reader of the SQL says, and names nothing that is not there."""

import dataclasses

import dagster as dg
import pytest

from pinnersage_assets.definitions import defs
from pinnersage_assets.warehouse.column_lineage import column_lineage, in_words
from pinnersage_assets.warehouse.sql_models import load_sql_models
from pinnersage_assets.warehouse.tables import all_tables

MODELS = load_sql_models()
ASSETS = {".".join(spec.key.path): spec for spec in defs.resolve_all_asset_specs()}


def lineage_of(table):
    return ASSETS[table].metadata["dagster/column_lineage"].deps_by_column


@pytest.mark.parametrize(
    ("column", "origins"),
    [
        # Through an ephemeral model, and a star.
        ("staging.actions.user_id", {"raw.actions.user_id"}),
        ("staging.pins.embedding", {"raw.pins.embedding"}),
        # Of a union, all parts.
        ("staging.rejected.dt", {"raw.actions.dt", "raw.impressions.dt", "raw.pins.dt"}),
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
    ],
)
def test_a_column_comes_from(column, origins):
    table, _, name = column.rpartition(".")
    found = {".".join([*origin.asset_key.path, origin.column_name]) for origin in lineage_of(table)[name]}
    assert found == origins


@pytest.mark.parametrize("table", MODELS)
def test_lineage_is_of_all_columns_and_names_columns_of_tables_that_are_read(table):
    lineage = lineage_of(table)
    assert lineage.keys() == {column.name for column in all_tables()[table].columns}
    for origin in {origin for origins in lineage.values() for origin in origins}:
        upstream = ".".join(origin.asset_key.path)
        assert upstream in MODELS[table].reads
        assert origin.column_name in {column.name for column in all_tables()[upstream].columns}


def test_the_ui_shows_it_in_the_description_of_a_column():
    [actions] = [c for c in ASSETS["marts.interests"].metadata["dagster/column_schema"].columns if c.name == "actions"]
    assert actions.description == "Actions of the window that it stands for. From users.medoids (size)."
    two = [dg.TableColumnDep(dg.AssetKey(["b", "t"]), "y"), dg.TableColumnDep(dg.AssetKey(["a", "t"]), "x")]
    assert in_words([*two, dg.TableColumnDep(dg.AssetKey(["b", "t"]), "z")]) == "From b.t (y, z), a.t (x)."
    assert in_words([]) == ""


def test_a_table_that_python_writes_has_none():
    assert all(("dagster/column_lineage" in spec.metadata) == (table in MODELS) for table, spec in ASSETS.items())


def test_sql_that_only_duckdb_understands_has_no_lineage():
    model = dataclasses.replace(MODELS["marts.interests"], text="select columns(lambda c: ) from users.medoids")
    assert column_lineage(model, all_tables()) is None
