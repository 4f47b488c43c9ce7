"""A long backfill that is killed at random moments and called again: it ends like one that was not."""

import itertools
import os
import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import dagster as dg
import pytest
from faulty import KILLED, PROCESSES, SmallWorld, forget_litter, is_whole
from world import on

from pinnersage_assets.warehouse import partitions

pytestmark = pytest.mark.slow

DAYS = 30
# What a day is made of, without what judges it: thirty of them take minutes.
GROUPS = dg.AssetSelection.groups("raw", "staging", "corpus", "users", "retrieval")
DAILY = GROUPS | dg.AssetSelection.assets(["operations", "publications"])


def backfill(data, writes=None, seconds=0.0):
    """Backfill all days, and be killed some time after so many writes, whatever is being done then."""
    record, done = partitions.record_partitions, itertools.count(1)

    def written(*arguments):
        record(*arguments)
        if next(done) == writes:
            threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()

    partitions.record_partitions = written
    SmallWorld.opened(data, DAILY).backfill(on(0), on(DAYS - 1))


def in_a_process(*arguments) -> int:
    process = PROCESSES.Process(target=backfill, args=arguments)
    process.start()
    process.join()
    return process.exitcode


def test_a_backfill_of_thirty_days_killed_again_and_again_ends_like_one_that_was_not(tmp_path):
    expected = SmallWorld.landed(tmp_path / "expected", DAYS, DAILY)
    world = expected.copy(tmp_path / "data")
    chance, deaths = random.Random(0), 0
    with ThreadPoolExecutor(1) as beside:
        undisturbed = beside.submit(in_a_process, expected.data)
        # A day has some fifteen writes. They, and not seconds, say how far it gets: machines differ.
        while ended := in_a_process(world.data, chance.randint(20, 140), chance.uniform(0, 1)):
            assert ended == KILLED
            deaths += 1
            assert deaths < 30, "it gets nowhere"
        assert undisturbed.result() == 0
    assert deaths >= 3
    forget_litter(world)
    is_whole(world, expected, DAYS)
