"""What the tests of faults share: worlds of few rows, processes to be killed, and what must hold afterwards."""

import multiprocessing
import shutil
import signal
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import dagster as dg
import duckdb
import polars as pl
from world import START, Day, World, on, small_settings

from pinnersage_assets.definitions import defs
from pinnersage_assets.jobs import EXECUTOR, JOBS
from pinnersage_assets.sources.simulated import SimulatedSource

LAST = on(2)
SETTINGS = small_settings(
    window={"days": 2},
    # An index file, however few the pins are.
    index={"exact_up_to": 0, "recall_sample": 100},
    simulation={"users": 10, "pins": 100, "new_pins_per_day": 3, "dimensions": 16, "topics": 5},
    report={"users": 1},
)
# Not forked: what is imported here has threads, which a fork would lose.
PROCESSES = multiprocessing.get_context("spawn")

_EVALUATION = dg.AssetSelection.groups("evaluation")
_OPERATIONS = dg.AssetSelection.groups("operations")
WITHOUT_EVALUATION = dg.AssetSelection.all() - _EVALUATION - (_EVALUATION.downstream() - _OPERATIONS)


@dataclass(frozen=True)
class SmallWorld(World):
    """One whose daily job leaves out some assets, so that a day takes seconds."""

    daily: dg.AssetSelection = WITHOUT_EVALUATION

    @classmethod
    def landed(cls, data: Path, days: int = 3, daily: dg.AssetSelection = WITHOUT_EVALUATION) -> "SmallWorld":
        """With what came in on some days."""
        world = cls.opened(data, daily)
        source = SimulatedSource(world.settings.simulation, world.settings.seed, START)
        for day in map(on, range(days)):
            for table in ("actions", "impressions", "board_pins", "pins"):
                world.land(table, day, getattr(source, table)(day))
        return world

    @classmethod
    def opened(cls, data: Path, daily: dg.AssetSelection = WITHOUT_EVALUATION) -> "SmallWorld":
        """That of a data directory, in whichever process."""
        return cls(data, SETTINGS, "landing", dg.DagsterInstance.ephemeral(), daily)

    @cached_property
    def defs(self) -> dg.Definitions:
        parts = {name: getattr(defs, name) for name in ("assets", "asset_checks", "executor")}
        daily = dg.define_asset_job("daily", selection=self.daily, executor_def=EXECUTOR)
        jobs = [daily, *(job for job in JOBS if job.name != "daily")]
        return dg.Definitions(**parts, jobs=jobs, resources=self.resources)

    @property
    def tables(self) -> list[str]:
        """Those of the daily job."""
        return [".".join(key.path) for key in self.defs.resolve_job_def("daily").asset_layer.executable_asset_keys]

    def rows(self, days: int = 3) -> dict[tuple[Day, str], pl.DataFrame]:
        """All results but the names of files."""
        found = {(day, table): rows for day in map(on, range(days)) for table, rows in self.partitions(day).items()}
        # Named at random, so that none is ever written twice. All else of the index is the same: among so few pins one
        # thread builds it, and what is built or grown from the same is the same to the bit.
        return {key: rows.drop("path") if key[1] == "retrieval.hnsw_index" else rows for key, rows in found.items()}


def is_whole(world: SmallWorld, undisturbed: SmallWorld, days: int = 3) -> None:
    """As if nothing had happened: the rows are the same, all have passed, they are published, and no litter is left."""
    there, expected = world.rows(days), undisturbed.rows(days)
    assert [key for key in expected if not expected[key].equals(there[key])] == []
    last = on(days - 1)
    assert {world.status(table, last) for table in world.tables} == {"passed"}
    with duckdb.connect(world.warehouse.published, read_only=True) as published:
        recommended = published.execute("SELECT count(*) FROM retrieval.recommendations WHERE dt = ?", [last])
        assert recommended.fetchall() == [(len(expected[last, "retrieval.recommendations"]),)]
    assert list(world.data.glob("warehouse/scratch/*")) == []


def forget_litter(world):
    """Who is killed leaves a folder behind, which is deleted after a week."""
    shutil.rmtree(world.data / "warehouse" / "scratch")


KILLED = -signal.SIGKILL
