"""What assets ask the warehouse for, noted while they are materialised."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pinnersage_assets.warehouse import checks
from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.partitions import PartitionIOManager


class _Noting:
    """A connection that notes what it is asked."""

    def __init__(self, connection, queries: list[str]) -> None:
        self.connection, self._queries = connection, queries

    def __getattr__(self, name: str):
        return getattr(self.connection, name)

    def sql(self, query: str, **kwargs):
        self._queries.append(query)
        return self.connection.sql(query, **kwargs)

    def execute(self, query: str, *args):
        self._queries.append(query)
        return self.connection.execute(query, *args)


@contextmanager
def noted_queries() -> Iterator[dict[str, list[str]]]:
    """Gives, by table, the queries of the steps that make it in this process meanwhile; not those of its checks."""
    by_step, by_table, queries = defaultdict(list), {}, []
    get_reader, handle_output, evaluate = Warehouse.get_reader, PartitionIOManager.handle_output, checks._evaluate

    @contextmanager
    def noting_reader(self):
        with get_reader(self) as connection:
            yield _Noting(connection, queries)

    def noting_output(self, context, obj):
        of_step = by_table[".".join(context.asset_key.path)] = by_step[context.step_key]
        of_step += queries
        handle_output(self, context, obj)
        queries.clear()

    def unnoted_check(connection, *args):
        return evaluate(connection.connection, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Warehouse, "get_reader", noting_reader)
        patch.setattr(PartitionIOManager, "handle_output", noting_output)
        patch.setattr(checks, "_evaluate", unnoted_check)
        yield by_table
