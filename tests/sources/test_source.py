import datetime

import pytest
from pydantic import ValidationError

from pinnersage_assets.settings import Settings
from pinnersage_assets.sources.landing import LandingSource
from pinnersage_assets.sources.simulated import SimulatedSource
from pinnersage_assets.sources.source import Source

START = datetime.date(2026, 1, 1)
SETTINGS = Settings(seed=5, simulation={"users": 5, "pins": 40, "new_pins_per_day": 3, "dimensions": 8, "topics": 4})


def opened(kind, folder):
    return Source(kind=kind, landing_folder=str(folder), start_date=START.isoformat()).open(SETTINGS)


def test_simulated_data_follow_the_settings_and_the_start_date(tmp_path):
    source = opened("simulated", tmp_path)
    assert source == SimulatedSource(SETTINGS.simulation, 5, START)
    assert (source.pins(START).height, source.pins(START + datetime.timedelta(days=1)).height) == (40, 3)


def test_landing_data_come_from_the_landing_folder(tmp_path):
    assert opened("landing", tmp_path / "landing") == LandingSource(tmp_path / "landing")


@pytest.mark.parametrize("table", ["actions", "impressions", "board_pins", "pins"])
def test_both_sources_give_the_same_columns(tmp_path, table):
    simulated, landed = (getattr(opened(kind, tmp_path), table)(START) for kind in ("simulated", "landing"))
    assert simulated.schema == landed.schema
    assert simulated.height > landed.height == 0


def test_no_other_source_is_known():
    with pytest.raises(ValidationError, match="kind"):
        opened("kafka", "/nowhere")
