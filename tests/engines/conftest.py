"""All engines, Ray's on a cluster of two nodes, and files for them to work on."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

from pinnersage_assets.engines.in_process import InProcess
from pinnersage_assets.engines.processes import Processes
from pinnersage_assets.engines.tasks import Task

ENGINES = ("in_process", "processes", "ray")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """A Ray cluster of two nodes, to which this process is connected."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install -c constraints.txt -e '.[dev,ray]'")
    import ray
    from ray.cluster_utils import Cluster

    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path_factory.mktemp("ray") / "token"))
    # Nodes have the environment of whoever starts them, and workers that of their node.
    patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    options = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    # A node that is gone is known to be gone after two seconds, not fifteen.
    checks = {"health_check_period_ms": 300, "health_check_timeout_ms": 5000, "health_check_initial_delay_ms": 0}
    cluster = Cluster(initialize_head=True, head_node_args={**options, "_system_config": checks})
    del options["include_dashboard"]
    cluster.add_node(**options)
    ray.init(cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    patch.undo()


def make_engine(kind: str, request):
    if kind == "ray":
        request.getfixturevalue("cluster")
        from pinnersage_assets.engines.on_ray import OnRay

        return OnRay()
    return Processes(2) if kind == "processes" else InProcess()


@pytest.fixture(params=ENGINES)
def engine(request):
    return make_engine(request.param, request)


@pytest.fixture(params=ENGINES[1:])
def remote_engine(request):
    """An engine whose workers are not this process."""
    return make_engine(request.param, request)


@dataclass(frozen=True)
class Work:
    """Tasks over files of some rows each; task n has n + 1 rows."""

    folder: Path
    tasks: list[Task]

    @property
    def parameters(self) -> dict:
        return {"factor": 2, "attempts": str(self.folder / "attempts")}

    def attempts(self, key: int) -> int:
        return len(list((self.folder / "attempts").glob(f"{key} *")))

    def results(self) -> list[list[int]]:
        return [pl.read_parquet(task.destination)["value"].to_list() for task in self.tasks]

    def doubled(self) -> list[list[int]]:
        return [[2 * row for row in range(n + 1)] for n in range(len(self.tasks))]

    def leftovers(self) -> list[str]:
        expected = {task.destination for task in self.tasks}
        return [path.name for path in (self.folder / "to").iterdir() if path not in expected]


@pytest.fixture
def work(tmp_path):
    for name in ("from", "to", "attempts"):
        (tmp_path / name).mkdir()
    tasks = []
    for n in range(5):
        source = tmp_path / "from" / f"{n}.parquet"
        pl.DataFrame({"value": pl.Series(range(n + 1), dtype=pl.Int64)}).write_parquet(source)
        tasks.append(Task(str(n), source, tmp_path / "to" / f"{n}.parquet"))
    return Work(tmp_path, tasks)
