"""How a run is connected to Ray: dagster-ray's resource, for a cluster on this machine or one that is there already."""

import os
from typing import Any

import ray
from dagster_ray import RayResource
from dagster_ray.types import AnyDagsterContext
from pydantic import Field

# Data travels as files: the least that Ray takes.
_OBJECT_STORE_BYTES = 80 * 2**20


class RayCluster(RayResource):
    """A connection for as long as a run needs it; a local cluster ends with it."""

    address: str = Field("", description="Of a cluster that is running; empty starts one on this machine.")
    workers: int = Field(0, description="Processors of a local cluster; 0 means all.")

    @property
    def host(self) -> str:
        """Of the head node."""
        return self.address.removeprefix("ray://").partition(":")[0] or "127.0.0.1"

    @property
    def ray_address(self) -> str:
        """What `ray.init` is told."""
        return self.address or "local"

    @property
    def name(self) -> str:
        """For messages."""
        return f"the Ray cluster at {self.address}" if self.address else "a Ray cluster on this machine"

    @property
    def created(self) -> bool:
        """Whoever runs the cluster has made it; a local one is made by connecting."""
        return True

    @property
    def ready(self) -> bool:
        """As `created`."""
        return True

    def connect(self, context: AnyDagsterContext) -> object:
        """Connect, or start a local cluster; as of dagster-ray, but without the options of Ray Data, which we lack.

        Raises:
            ConnectionError: there is no cluster at the address.
        """
        # Nothing here uses the network unasked.
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        local = {
            "num_cpus": self.workers or len(os.sched_getaffinity(0)),
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
        }
        options: dict[str, Any] = {"log_to_driver": False, **({} if self.address else local), **self.ray_init_options}
        self._context = ray.init(self.ray_address, **options)
        return self._context

    def on_connect(self, context: AnyDagsterContext) -> None:
        """Say so in the log."""
        assert context.log is not None
        context.log.info(f"Connected to {self.name}")
