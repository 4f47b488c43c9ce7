"""The engine of a run as a Dagster resource: the one place of this folder that knows settings."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Self

import dagster as dg
from pydantic import PrivateAttr

from pinnersage_assets.engines.engine import Engine
from pinnersage_assets.engines.in_process import InProcess
from pinnersage_assets.engines.processes import Processes
from pinnersage_assets.settings import Settings


class EngineResource(dg.ConfigurableResource):
    """The engine that the settings of a run ask for, connected for as long as the run needs it."""

    settings: dg.ResourceDependency[Settings]
    _engine: Engine = PrivateAttr()

    def get_engine(self) -> Engine:
        """The engine; it knows no Dagster."""
        return self._engine

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Generator[Self]:
        """Connect to where kernels are to run.

        Raises:
            dg.Failure: Ray is asked for, and is not installed.
        """
        wanted = self.settings.engine
        if wanted.kind == "ray":
            try:
                from pinnersage_assets.engines.on_ray import OnRay
                from pinnersage_assets.engines.ray_cluster import RayCluster
            except ImportError as error:
                raise dg.Failure(
                    f"engine.kind is ray, and Ray cannot be imported ({error}): install it with "
                    "`.venv/bin/pip install -c constraints.txt -e '.[dev,ray]'`, or choose another engine"
                ) from error
            with RayCluster(address=wanted.ray_address, workers=wanted.workers).yield_for_execution(context):
                self._engine = OnRay()
                yield self
        else:
            self._engine = Processes(wanted.workers) if wanted.kind == "processes" else InProcess()
            yield self
