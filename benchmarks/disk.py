"""What a day takes on disk, table by table, and a year of days: with the retentions of the settings, and without any.

Run with ``python benchmarks/disk.py``. A small simulated world (2,000 users with some 90 actions each in 90 days, ten
pins of 256 dimensions a user, eight impressions an action) is materialised for a day. Each table is copied into a file
of its own, which says what its rows take, and carried over to 100,000 users and 1,000,000 pins, a thousandth of which
is new every day: rows of users grow with users, rows of pins with pins, those of the evaluation, which are here of 100
users, with the 2,000 that are judged by default. Longer ids compress a little less than those of a small world do; that
is left out of account.

Then come days without the evaluation: the first keep everything, the others what the shortest retentions keep.
"""

import datetime
import tempfile
import warnings
from pathlib import Path

USERS = 2_000
PINS_A_USER = 10
LARGE_USERS, LARGE_PINS = 100_000, 1_000_000
YEAR = 365
ROWS_MEASURED = 300_000
START = datetime.date(2026, 1, 1)
DAY = START + datetime.timedelta(days=89)
KEEPING, CLEANING = 2, 7

JUDGED = 100

# Tables whose partitions grow with the users, with those judged, with the pins that are known, or with the new ones.
OF_USERS = (
    *("raw.actions", "raw.impressions", "raw.board_pins", "staging.actions", "staging.impressions"),
    *("staging.board_pins", "users.clusters", "users.medoids", "graph.edges"),
    *("retrieval.recommendations", "retrieval.pixie_recommendations", "retrieval.blended_recommendations"),
    *("retrieval.medoid_neighbours", "marts.interests", "marts.medoid_reuse"),
)
OF_PINS = ("corpus.pins", "corpus.excluded")
OF_JUDGED_USERS = (
    *("evaluation.retrieval_users", "evaluation.ranking_users"),
    *("evaluation.online_agreement", "evaluation.merged_vectors"),
)
OF_NEW_PINS = ("raw.pins", "staging.pins", "corpus.near_duplicates")
# What takes less in a year is shown together.
_SHOWN_BYTES = 100e6


def main(users: int = USERS) -> None:
    """Print a table of a year, and the size of the file by day."""
    import dagster as dg

    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory(prefix="disk_") as folder, dg.DagsterInstance.ephemeral() as instance:
        _materialise(Path(folder), users, instance)
        _show_year(Path(folder), users)
        _show_growth(Path(folder), users, instance)


def _world(folder: Path, users: int, days_kept: int = 0):
    """Definitions and warehouse over a data directory; everything is kept for so many days, or for ever."""
    import dagster as dg

    from pinnersage_assets.definitions import defs
    from pinnersage_assets.resources import build_resources
    from pinnersage_assets.settings import Environment, RetentionSettings, Settings

    pins = PINS_A_USER * users
    simulation = {"users": users, "pins": pins, "new_pins_per_day": pins // 1_000, "topics": max(1, pins // 10)}
    settings = Settings(
        simulation=simulation,
        index={"exact_up_to": 0},
        evaluation={"trailing_days": 2, "users": JUDGED},
        retention=dict.fromkeys(RetentionSettings.model_fields, days_kept),
    )
    resources = build_resources(Environment(folder, "simulated", START), settings)
    parts = {name: getattr(defs, name) for name in ("assets", "asset_checks", "jobs", "executor")}
    return dg.Definitions(**parts, resources=resources), resources["warehouse"]


def _materialise(folder: Path, users: int, instance) -> None:
    from pinnersage_assets.backfill import backfill

    for _ in backfill(*_world(folder, users), instance, START, 90, 1, DAY, DAY):
        pass


def _show_year(folder: Path, users: int) -> None:
    from pinnersage_assets.lineage.clean_up import FILES, ROWS
    from pinnersage_assets.settings import EvaluationSettings, RetentionSettings
    from pinnersage_assets.warehouse.tables import all_tables

    by_users, by_pins = LARGE_USERS / users, LARGE_PINS / (PINS_A_USER * users)
    grows = dict.fromkeys(OF_USERS, by_users) | dict.fromkeys((*OF_PINS, *OF_NEW_PINS), by_pins)
    grows |= dict.fromkeys(OF_JUDGED_USERS, EvaluationSettings().users / JUDGED)
    retention = dict(RetentionSettings())
    days_of = {table: retention[name] for name, tables in ROWS.items() for table in tables}
    of_files = {table: retention[name] for name, (table, *_) in FILES.items()}
    _, warehouse = _world(folder, users)
    found = []
    for table in all_tables():
        per_row = _measure(warehouse, table)
        [(of_day, first, new)] = warehouse.read(
            "SELECT count(*) FILTER (dt = $day), count(*) FILTER (dt = $start), count(*) FILTER (dt > $start) "
            f"FROM {table}",
            {"day": DAY, "start": START},
        ).rows()
        once, daily = (first, new / (DAY - START).days) if table in OF_NEW_PINS else (0, of_day)
        scale = grows.get(table, 1) * per_row
        found.append((table, per_row, once * scale, daily * scale, days_of.get(table, 0)))
    index, graphs, snapshots, store = (_size(folder / name) for name in ("index", "graph", "serving/pins", "serving"))
    # There are two index files: yesterday's too. A file goes one clean-up after its row let go of it.
    index_days, graph_days, snapshot_days = (
        of_files[table] + 1 for table in ("retrieval.hnsw_index", "graph.snapshot", "serving.snapshot")
    )
    found.append(("files of the index", 0, 0, by_pins * index / 2, index_days))
    # As many: the graph is made of the day before too.
    found.append(("files of the graph", 0, 0, by_users * graphs / 2, graph_days))
    found.append(("files of pins for the service", 0, 0, by_pins * snapshots, snapshot_days))
    found.append(("users in the service's store", 0, 0, by_users * (store - snapshots), snapshot_days))
    _print_year(found)


def _print_year(found: list[tuple]) -> None:
    print(f"{LARGE_USERS:,} users, {LARGE_PINS:,} pins; a year of days")
    print(f"{'':32}{'bytes a row':>12}{'MB a day':>10}{'days kept':>11}{'GB':>8}{'GB for ever':>13}")
    lines = []
    for name, per_row, once, daily, days in found:
        is_file = "." not in name
        for_ever = once + YEAR * daily
        kept = (days + 1) * daily if days else for_ever
        lines.append((name, "" if is_file else f"{per_row:.1f}", daily, days + 1 if days else YEAR, kept, for_ever))
    small = [line for line in lines if max(line[4:]) < _SHOWN_BYTES]
    shown = sorted((line for line in lines if line not in small), key=lambda line: -line[4])
    together = [sum(line[n] for line in small) for n in (2, 4, 5)]
    shown.append((f"{len(small)} other tables", "", together[0], "", *together[1:]))
    for name, per_row, daily, days, kept, for_ever in shown:
        print(
            f"{name:32}{per_row:>12}{daily / 1e6:10,.1f}{days:>11}{kept / 1e9:8,.1f}{for_ever / 1e9:13,.1f}"
            f"   x {for_ever / max(1, kept):.1f}"
        )
    tables = [line for line in shown if "." in line[0] or "other" in line[0]]
    for title, chosen in (("the database, of which there is a published copy too", tables), ("all", shown)):
        kept, for_ever = (sum(line[n] for line in chosen) for n in (4, 5))
        print(f"{title:65}{kept / 1e9:8,.1f}{for_ever / 1e9:13,.1f}   x {for_ever / kept:.1f}")


def _measure(warehouse, table: str) -> float:
    """What a row of a table takes, in a file of its own with so many copies that blocks are full."""
    with tempfile.TemporaryDirectory() as folder, warehouse.get_reader() as connection:
        [(rows,)] = connection.execute(f"SELECT count(*) FROM {table}").fetchall()
        connection.execute(f"ATTACH '{folder}/alone.duckdb' AS alone")
        connection.execute(
            f"CREATE TABLE alone.measured AS SELECT * REPLACE (dt + copy::INTEGER * {2 * YEAR} AS dt) "
            f"FROM {table}, range({1 + ROWS_MEASURED // max(1, rows)}) AS copies(copy) ORDER BY copy, dt"
        )
        [(copied,)] = connection.execute("SELECT count(*) FROM alone.measured").fetchall()
        connection.execute("CHECKPOINT alone")
        used = "SELECT used_blocks * block_size FROM pragma_database_size() WHERE database_name = 'alone'"
        [(taken,)] = connection.execute(used).fetchall()
        connection.execute("DETACH alone")
    return taken / max(1, copied)


def _size(folder: Path) -> int:
    """What is really on disk: the store's file has holes."""
    return sum(512 * file.stat().st_blocks for file in folder.rglob("*") if file.is_file())


def _show_growth(folder: Path, users: int, instance) -> None:
    print(f"{users:,} users: the size of the database by day, in MB")
    first = None
    for number in range(1, KEEPING + CLEANING + 1):
        is_cleaning = number > KEEPING
        definitions, warehouse = _world(folder, users, 1 if is_cleaning else 0)
        job = definitions.resolve_job_def("daily")
        chosen = [key for key in job.asset_layer.executable_asset_keys if key.path[0] not in ("evaluation", "marts")]
        day = DAY + datetime.timedelta(days=number)
        result = job.execute_in_process(
            instance=instance, partition_key=str(day), asset_selection=chosen, raise_on_error=False
        )
        assert result.success
        size = Path(warehouse.database).stat().st_size
        first = first or size
        print(
            f"{day} {'cleaning' if is_cleaning else 'keeping':10}{size / 1e6:10,.1f}   x {size / first:.2f}", flush=True
        )


if __name__ == "__main__":
    main()
