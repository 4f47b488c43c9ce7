"""The small world that the tests of this folder read: eleven days, the whole lineage for the last two."""

import datetime
from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest
from asking import noted_queries
from world import START, Day, World, on, small_settings

from pinnersage_assets.settings import Settings
from pinnersage_assets.sources.simulated import SimulatedSource

LAST = on(10)
UNKNOWN_PIN, LATE_PIN = 10**12, 10**6


@dataclass(frozen=True)
class Plants:
    """Users and pins for cases that the simulation alone would leave to chance; all but the cold users are warm."""

    unknown: int = 1
    """Acts on a pin that never lands."""
    late: int = 2
    """Acts on a pin before it lands, on the last day."""
    repeat: int = 3
    """Acts on the last day on a near-duplicate of an unseen pin."""
    excluded: int = 4
    """Acts on the last day on a pin of low quality."""
    new: int = 5
    """Acts on the last day on a pin that landed that day."""
    seen: int = 6
    """Acts on the last day on a near-duplicate of a pin acted on before."""
    cold: int = -999
    """Acts on the last day only; negative, as hashed ids are."""
    cold_but_for_unknown: int = 998
    """Acted only on an unknown pin before the last day."""
    negative: int = -(2**62)
    """An ordinary user with a negative id."""


PLANTS = Plants()


@pytest.fixture(scope="session")
def world_settings() -> Settings:
    return small_settings(window={"days": 8}, simulation={"users": 120}, evaluation={"users": 1000})


@pytest.fixture(scope="session")
def world(made_world) -> World:
    """Read-only: copy it to change it."""
    return made_world[0]


@pytest.fixture(scope="session")
def asked(made_world) -> dict[str, list[str]]:
    """By table, what its asset asked the warehouse for as the world was made."""
    return made_world[1]


@pytest.fixture(scope="session")
def made_world(tmp_path_factory, world_settings) -> tuple[World, dict[str, list[str]]]:
    world = World.new(tmp_path_factory.mktemp("small") / "data", world_settings, kind="landing")
    source = SimulatedSource(world_settings.simulation, world_settings.seed, START)
    extra = _planted_actions(source)
    for day in (on(offset) for offset in range(11)):
        world.land("actions", day, pl.concat([source.actions(day).drop("file"), extra[day]]))
        world.land("impressions", day, source.impressions(day))
        world.land("board_pins", day, source.board_pins(day))
        pins = source.pins(day)
        if day == LAST:
            late = pins[0].with_columns(
                pin_id=pl.lit(LATE_PIN, pl.Int64),
                embedding=pl.Series([np.eye(64, dtype=np.float32)[0].tolist()], dtype=pl.List(pl.Float32)),
            )
            pins = pl.concat([pins, late])
        world.land("pins", day, pins)
    with noted_queries() as asked:
        world.backfill(on(9), LAST)
    return world, asked


def _planted_actions(source: SimulatedSource) -> dict[Day, pl.DataFrame]:
    truth, ids = source.world, np.arange(1, 801)
    original = truth.planted_original(ids)
    widths, heights = truth.sizes(ids)
    good = (np.minimum(widths, heights) >= 200) & (truth.text_fractions(ids) <= 0.5)
    alone = np.array([np.sum(original == pin) == 1 for pin in ids])
    repeats = [int(pin) for pin in ids[(original != ids) & good] if good[original[pin - 1] - 1]]
    poor = int(ids[~good & alone][0])
    some = [int(pin) for pin in ids[good & alone][:4]]
    new = int(source.pins(LAST)["pin_id"][0])
    planted = [
        (PLANTS.unknown, UNKNOWN_PIN, 5),
        (PLANTS.unknown, UNKNOWN_PIN, 10),
        (PLANTS.late, LATE_PIN, 5),
        (PLANTS.late, LATE_PIN, 10),
        (PLANTS.late, some[3], 10),
        (PLANTS.repeat, repeats[0], 10),
        (PLANTS.excluded, poor, 10),
        (PLANTS.new, new, 10),
        (PLANTS.seen, int(original[repeats[1] - 1]), 4),
        (PLANTS.seen, repeats[1], 10),
        (PLANTS.seen, some[3], 10),
        (PLANTS.cold, some[0], 10),
        (PLANTS.cold_but_for_unknown, UNKNOWN_PIN, 6),
        (PLANTS.cold_but_for_unknown, some[0], 10),
        (PLANTS.negative, some[1], 7),
        (PLANTS.negative, some[2], 10),
    ]
    # Everybody among the warm acts on some known pin before the last day.
    planted += [(user, some[0], 8) for user in range(1, 7)]
    rows = [(user, pin, "repin", _noon(on(day))) for user, pin, day in planted]
    frame = pl.DataFrame(
        rows,
        schema={"user_id": pl.Int64, "pin_id": pl.Int64, "action": pl.String, "ts": pl.Datetime("us")},
        orient="row",
    )
    return {on(offset): frame.filter(pl.col("ts").dt.date() == on(offset)) for offset in range(11)}


def _noon(day: Day) -> datetime.datetime:
    return datetime.datetime.combine(day, datetime.time(12))
