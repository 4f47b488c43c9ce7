"""Killed in every stage of the daily job: what is done stays, and a re-run ends with the rows of one undisturbed."""

import contextlib
import itertools
import os
import signal
from pathlib import Path

import dagster as dg
import pytest
from faulty import KILLED, LAST, PROCESSES, SmallWorld, forget_litter, is_whole

from pinnersage_assets.warehouse import checks, partitions

pytestmark = pytest.mark.slow

EVERYTHING = dg.AssetSelection.all()

# When a process dies that writes a table, and what is there afterwards.
MOMENTS = {
    "in the transaction": (False, None),
    "before the checks": (True, "unchecked"),
    "after the checks": (True, "passed"),
}


def dies(turn, data, before, doomed, moment):
    """Once it is its turn: make again what the one before was killed in, go on, and be killed in the next stage."""
    turn.wait()
    world = SmallWorld.opened(data, EVERYTHING)
    if before and not world.run("daily", LAST, only=before).success:
        raise AssertionError(f"{before} cannot be made again")

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    record, record_status = partitions.record_partitions, checks.record_status

    def written(connection, table, *arguments):
        record(connection, table, *arguments)
        # The rows are written, and so is the ledger; nothing is committed.
        if table in doomed and moment == "in the transaction":
            die()

    def checked(connection, table, *arguments):
        if table in doomed and moment == "before the checks":
            die()
        record_status(connection, table, *arguments)
        if table in doomed:
            die()

    partitions.record_partitions, checks.record_status = written, checked
    world.run("daily", LAST, only=doomed)


@contextlib.contextmanager
def prepared(data, stages):
    """For each stage in turn a process that makes the one before again, goes on from there, and dies in it.

    To start one takes longer than most stages: the next one does so while this one is at work.
    """

    def process(number):
        turn = PROCESSES.Event()
        before, doomed = stages[number - 1] if number else [], stages[number]
        moment = list(MOMENTS)[number % len(MOMENTS)]
        started = PROCESSES.Process(target=dies, args=(turn, data, before, doomed, moment), daemon=True)
        started.start()
        return turn, started, moment

    processes = []

    def in_turn():
        processes.append(process(0))
        for number, stage in enumerate(stages):
            if number + 1 < len(stages):
                processes.append(process(number + 1))
            turn, dying, moment = processes[number]
            turn.set()
            dying.join()
            yield stage, dying.exitcode, moment

    try:
        yield in_turn()
    finally:
        for _, left, _ in processes:
            left.kill()


def test_killed_in_every_stage_the_job_ends_with_the_rows_of_one_that_nothing_disturbed(tmp_path):
    undisturbed = SmallWorld.landed(tmp_path / "undisturbed", daily=EVERYTHING)
    for planned in undisturbed.backfilling(LAST, LAST):
        if planned.job == "daily":
            world = undisturbed.copy(tmp_path / "data")
    job = world.defs.resolve_job_def("daily")
    tables = {asset.node_def.name: [".".join(key.path) for key in asset.keys] for asset in world.defs.assets}
    # In the order in which the job executes them; their checks follow each.
    stages = [tables[node.name] for node in job.nodes_in_topological_order if node.name in tables]
    assert sorted(itertools.chain(*stages)) == sorted(world.tables)

    expected = undisturbed.partitions(LAST)
    ended = []
    with prepared(world.data, stages) as deaths:
        for stage, exitcode, moment in deaths:
            assert exitcode == KILLED, stage
            is_there, status = MOMENTS[moment]
            # Of a stage with two tables the other one may be there as well: it was not the one to be killed in.
            found = {table: world.status(table, LAST) for table in stage}
            assert status in found.values(), (stage, moment)
            for table in stage:
                rows = world.partition(table, LAST)
                whole = table in AT_RANDOM or rows.equals(expected[table])
                assert whole if found[table] else rows.is_empty(), (table, moment)
            assert is_there == any(found.values())
            ended.append(stage)
            if stage != stages[-1]:
                assert not Path(world.warehouse.published).exists()
    assert ended == stages
    # The last one was killed after it had published and before that was in the ledger, or checked.
    world.backfill(LAST, LAST)
    forget_litter(world)
    is_whole(world, undisturbed)


# The index's file has a name at random; what is stale is judged while the day is in pieces.
AT_RANDOM = {"retrieval.hnsw_index", "operations.partitions"}
