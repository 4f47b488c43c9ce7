"""Where raw data comes from: the one resource that raw assets ask for a day's rows."""

import datetime
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Protocol

import dagster as dg
import polars as pl
from pydantic import Field

from pinnersage_assets.settings import Settings
from pinnersage_assets.sources.landing import LandingSource, digest_of, files_digest
from pinnersage_assets.sources.simulated import SimulatedSource


class DailyRows(Protocol):
    """What every source can do: give the rows of one day, as they came."""

    def actions(self, day: datetime.date) -> pl.DataFrame:
        """What users did."""

    def impressions(self, day: datetime.date) -> pl.DataFrame:
        """What users were shown."""

    def board_pins(self, day: datetime.date) -> pl.DataFrame:
        """What they saved to boards."""

    def pins(self, day: datetime.date) -> pl.DataFrame:
        """Pins first seen."""


class Source(dg.ConfigurableResource):
    """The source that ``PINNERSAGE_SOURCE`` names."""

    kind: Literal["simulated", "landing"] = Field(description="Simulated data, or Parquet files in the landing folder.")
    landing_folder: str = Field(description="Where Parquet files land.")
    start_date: str = Field(description="First day of the simulation.")

    def open(self, settings: Settings) -> DailyRows:
        """The source itself."""
        if self.kind == "landing":
            return LandingSource(Path(self.landing_folder))
        return SimulatedSource(settings.simulation, settings.seed, datetime.date.fromisoformat(self.start_date))

    def state(
        self, settings: Settings, table: str, days: Iterable[datetime.date]
    ) -> dict[datetime.date, dict[str, int]]:
        """What stands for all that rows of a day are made from: `landing` for its files, `simulation` for the settings.

        Of landed files that are gone nothing can be said: they are 0.
        """
        if self.kind == "landing":
            return {day: {"landing": files_digest(Path(self.landing_folder), table, day)} for day in days}
        simulation = digest_of([settings.simulation.model_dump(mode="json"), settings.seed, self.start_date])
        return {day: {"simulation": simulation} for day in days}
