"""The resources that assets ask for, for a data directory."""

from typing import Any

from pinnersage_assets.engines.resource import EngineResource
from pinnersage_assets.settings import Environment, Settings
from pinnersage_assets.sources.source import Source
from pinnersage_assets.warehouse.database import Warehouse
from pinnersage_assets.warehouse.partitions import PartitionIOManager


def build_resources(environment: Environment, settings: Settings) -> dict[str, Any]:
    """All resources, by the names that assets use."""
    data = environment.data_dir
    warehouse = Warehouse(
        database=str(data / "warehouse" / "pinnersage.duckdb"),
        published=str(data / "published" / "pinnersage.duckdb"),
        connection_config={"memory_limit": f"{settings.warehouse.memory_megabytes}MiB"},
    )
    source = Source(
        kind=environment.source,
        landing_folder=str(data / "landing"),
        start_date=environment.start_date.isoformat(),
    )
    return {
        "warehouse": warehouse,
        "io_manager": PartitionIOManager(warehouse=warehouse),
        "source": source,
        "settings": settings,
        "engine": EngineResource(settings=settings),
    }
