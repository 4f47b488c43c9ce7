"""What schema.yml says of where columns come from is what assets ask the warehouse for, on real days."""

import re

import pytest

from pinnersage_assets.definitions import defs
from pinnersage_assets.warehouse.sql_models import load_sql_models
from pinnersage_assets.warehouse.tables import all_tables

INPUTS = {
    ".".join(spec.key.path): {".".join(dep.asset_key.path) for dep in spec.deps}
    for spec in defs.resolve_all_asset_specs()
}
# A corpus as small as that of the world is searched without the index.
UNASKED = {"evaluation.merged_vectors": {("retrieval.hnsw_index", name) for name in ("path", "expansion_search")}}
# How vectors are asked for: they come from a file that is brought up to date with staging.pins first.
VECTORS = "table_name = 'staging.pins' AND dt <= ?"


def asks_for(query: str, table: str, column: str) -> bool:
    """Whether a query names a column and its table, or takes the whole table."""
    if VECTORS in query and table == "staging.pins" and column in ("pin_id", "embedding"):
        return True
    names = re.findall(r"[a-z_0-9.]+", query)
    takes_all = re.match(rf"\s*FROM {table}\b", query)
    return table in names and bool(takes_all or column in {name.rpartition(".")[2] for name in names})


@pytest.mark.parametrize("table", sorted(INPUTS.keys() - load_sql_models().keys()))
def test_an_asset_asks_for_the_columns_that_its_own_come_from(asked, table):
    origins = {origin for column in all_tables()[table].columns for origin in column.origins}
    # What only other settings make an input is asked for under these.
    origins = {(other, name) for other, name in origins if other in INPUTS[table]}
    unasked = {origin for origin in origins if not any(asks_for(query, *origin) for query in asked[table])}
    assert unasked == UNASKED.get(table, set())


def test_a_query_asks_for_what_it_names_or_takes_whole():
    assert asks_for("SELECT p.pin_id FROM staging.pins AS p", "staging.pins", "pin_id")
    assert not asks_for("SELECT p.pin_id FROM staging.pins AS p", "staging.pins", "title")
    assert not asks_for("SELECT pin_id FROM corpus.pins", "staging.pins", "pin_id")
    assert asks_for("FROM users.medoids WHERE dt = $day", "users.medoids", "size")
