"""The command line: ``python -m pinnersage_assets COMMAND``. The Makefile calls it."""

import datetime
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

_LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"
_DATE = click.DateTime(formats=["%Y-%m-%d"])


class _Commands(click.Group):
    """Errors in the environment, in settings.toml or in a SQL model are for the user: a message, not a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except ValueError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Commands)
def main() -> None:
    """PinnerSage on Dagster."""


@main.command()
@click.option("--from", "first", type=_DATE, help="First day whose whole lineage is wanted.")
@click.option("--to", "last", type=_DATE, help="Last such day.")
@click.option("--again", is_flag=True, help="Also materialise those days that are complete already.")
@click.option("--stale", is_flag=True, help="Instead, materialise again whatever is stale, of whatever day.")
def backfill(first: datetime.datetime | None, last: datetime.datetime | None, again: bool, stale: bool) -> None:
    """Materialise the whole lineage for some days, in this process; interrupted, it resumes."""
    if stale:
        if first or last or again:
            raise click.UsageError("--stale goes by what is stale: it takes no days, and no --again")
        _backfill_stale()
    elif first and last:
        _backfill(first.date(), last.date(), again)
    else:
        raise click.UsageError("say which days, with --from and --to; or --stale")


@main.command()
@click.option("--again", is_flag=True, help="Also materialise the three days if they are complete already.")
def demo(again: bool) -> None:
    """A hundred simulated days, and the whole lineage for the last three of them."""
    from pinnersage_assets.partitions import ENVIRONMENT

    first = ENVIRONMENT.start_date + datetime.timedelta(days=97)
    last = ENVIRONMENT.start_date + datetime.timedelta(days=99)
    _backfill(first, last, again)
    _show_demo(last)


@main.command()
def sql() -> None:
    """A prompt for SQL on the published copy."""
    from pinnersage_assets.resources import build_resources
    from pinnersage_assets.settings import Settings, read_environment
    from pinnersage_assets.warehouse.prompt import prompt

    prompt(Path(build_resources(read_environment(), Settings())["warehouse"].published))


@main.command()
@click.option("--consume/--no-consume", default=True, show_default=True, help="Also take in events.")
def serve(consume: bool) -> None:
    """Answer over HTTP, and take in events."""
    from pinnersage_assets.partitions import ENVIRONMENT, SETTINGS
    from pinnersage_assets.resources import build_resources

    try:
        from pinnersage_assets.serving import server
    except ImportError as error:
        raise click.ClickException(f"a package is missing ({error}): pip install -e '.[serve]'") from error
    logging.basicConfig(level=logging.INFO, format=_LOG_FORMAT)
    warehouse = build_resources(ENVIRONMENT, SETTINGS)["warehouse"]
    server.serve(Path(warehouse.published), ENVIRONMENT.data_dir, SETTINGS, consume)


@main.command()
@click.option("--parent", type=int, help="End when this process, which started us, has ended.")
def consume(parent: int | None) -> None:
    """Take events into the serving store, and land days that are over, until told to stop."""
    from pinnersage_assets.serving.consumer import consuming
    from pinnersage_assets.serving.store import StoreError
    from pinnersage_assets.settings import load_settings, read_environment

    environment = read_environment()
    settings = load_settings(environment.data_dir / "settings.toml").serving
    logging.basicConfig(level=logging.INFO, format=_LOG_FORMAT)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent, stop), daemon=True).start()
    try:
        with consuming(environment, settings) as consumer:
            place = environment.data_dir / "serving"
            logging.info("events from %s in %s", settings.stream, place)
            consumer.run(stop)
            logging.info("ended: %s", consumer.counts)
    except (StoreError, OSError) as error:
        raise click.ClickException(str(error)) from error


def _end_with(parent: int, stop: threading.Event) -> None:
    # Who loses its parent gets another one.
    while os.getppid() == parent and not stop.wait(0.5):
        pass
    stop.set()


@main.command()
@click.argument("users", nargs=-1, type=int)
@click.option("--original", "originals", multiple=True, help="An id as it was imported, where those are no integers.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def erase(users: tuple[int, ...], originals: tuple[str, ...], yes: bool) -> None:
    """Erase users from every table, file and store, and search for them again."""
    if not users and not originals:
        raise click.UsageError("say whom: erase 17 42, or erase --original alice@example.com")
    if not yes:
        click.confirm("What is erased cannot be had back. Erase?", abort=True)
    _erase([*users], [*originals])


@main.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--user", "user_column", required=True, help="Column that says who acted.")
@click.option("--item", "item_column", required=True, help="Column that says on what.")
@click.option("--time", "time_column", required=True, help="Column that says when.")
@click.option("--action", "action_column", help="Column that says what they did; without it all are clicks.")
@click.option("--title", "title_column", help="Column with the item's title.")
@click.option("--basket", "basket_column", help="Column of what belongs together; without it a user's day.")
@click.option("--vectors", type=click.Path(path_type=Path), help="Parquet file with the item column and `embedding`.")
@click.option("--vectors-before", type=_DATE, help="Fit vectors from co-occurrence before this day instead.")
@click.option("--dimensions", default=64, show_default=True, help="Length of fitted vectors.")
@click.option("--replace", is_flag=True, help="Overwrite days that exist.")
def import_events(source: Path, vectors_before: datetime.datetime | None, **options: Any) -> None:
    """Turn a CSV or Parquet file of events into landing folders."""
    from pinnersage_assets.sources import events

    before = vectors_before.date() if vectors_before else None
    _report(lambda folder: events.import_events(source, folder, vectors_before=before, **options))


@main.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--vectors-before", type=_DATE, required=True, help="Fit item vectors to baskets before this day.")
@click.option("--dimensions", default=64, show_default=True, help="Length of an item vector.")
@click.option("--replace", is_flag=True, help="Overwrite days that exist.")
def import_online_retail(source: Path, vectors_before: datetime.datetime, dimensions: int, replace: bool) -> None:
    """Turn a sheet of Online Retail II (CSV or Parquet) into landing folders."""
    from pinnersage_assets.sources import online_retail

    _report(
        lambda folder: online_retail.import_online_retail(
            source, folder, vectors_before.date(), dimensions=dimensions, replace=replace
        )
    )


def _report(run) -> None:
    from pinnersage_assets.settings import read_environment

    folder = read_environment().data_dir / "landing"
    try:
        report = run(folder)
    except OSError as error:
        raise click.ClickException(str(error)) from error
    for name, value in vars(report).items():
        click.echo(f"{name.replace('_', ' '):24} {value}")
    day = report.last_day
    click.echo(
        f"\nLanded in {folder}. Next, in the shell:\n"
        f"export PINNERSAGE_SOURCE=landing PINNERSAGE_DATA_DIR={folder.parent}\nmake backfill FROM={day} TO={day}"
    )


def _backfill(first: datetime.date, last: datetime.date, again: bool) -> None:
    import dagster as dg

    from pinnersage_assets.backfill import backfill, check_days
    from pinnersage_assets.partitions import DAILY, ENVIRONMENT, SETTINGS

    check_days(ENVIRONMENT.start_date, first, last)
    complete = datetime.date.fromisoformat(DAILY.get_last_partition_key() or "0001-01-01")
    if last > complete:
        raise click.ClickException(f"{last} is not over yet (UTC): the last complete day is {complete}")
    if ENVIRONMENT.source == "landing" and not any(ENVIRONMENT.data_dir.glob("landing/*/dt=*")):
        raise click.ClickException(f"there are no folders landing/*/dt=YYYY-MM-DD in {ENVIRONMENT.data_dir}")
    # Not above: it takes seconds, and mistakes are told before it.
    from pinnersage_assets.definitions import defs
    from pinnersage_assets.lineage.raw import refuse_other_source
    from pinnersage_assets.resources import build_resources

    resources = build_resources(ENVIRONMENT, SETTINGS)
    try:
        refuse_other_source(resources["warehouse"], resources["source"])
    except dg.Failure as failure:
        raise click.ClickException(str(failure)) from failure
    with _instance() as instance:
        anything, seconds = _told(
            backfill(
                defs,
                resources["warehouse"],
                instance,
                ENVIRONMENT.start_date,
                SETTINGS.longest_window,
                SETTINGS.evaluation.horizon_days,
                first,
                last,
                again,
            )
        )
    done = "is done" if anything else "was there already; with AGAIN=1 it is materialised once more"
    click.echo(f"[{seconds:6.1f} s] The whole lineage of {first} to {last} {done}.")


def _backfill_stale() -> None:
    from pinnersage_assets.backfill import backfill_stale
    from pinnersage_assets.definitions import defs
    from pinnersage_assets.lineage.stale_partitions import find_stale
    from pinnersage_assets.partitions import ENVIRONMENT, SETTINGS
    from pinnersage_assets.resources import build_resources

    resources = build_resources(ENVIRONMENT, SETTINGS)
    warehouse, specs = resources["warehouse"], defs.resolve_all_asset_specs()

    def find() -> dict[datetime.date, set[str]]:
        with warehouse.get_reader() as connection:
            stale = find_stale(connection, specs, resources["source"], SETTINGS)
        days: dict[datetime.date, set[str]] = {}
        for day, table, reason in stale.select("stale_dt", "table_name", "reason").iter_rows():
            days.setdefault(day, set()).add(table)
            if len(days) == 1:
                click.echo(f"{day} {table}: {reason}")
        return days

    try:
        with _instance() as instance:
            anything, seconds = _told(backfill_stale(defs, warehouse, instance, find))
    except FileNotFoundError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"[{seconds:6.1f} s] {'Nothing is stale any more.' if anything else 'Nothing is stale.'}")


def _erase(user_ids: list[int], originals: list[str]) -> None:
    import dagster as dg

    from pinnersage_assets.erasure import erase_users
    from pinnersage_assets.partitions import ENVIRONMENT, SETTINGS
    from pinnersage_assets.resources import build_resources
    from pinnersage_assets.serving.consumer import alone
    from pinnersage_assets.serving.store import StoreError
    from pinnersage_assets.sources.dictionaries import known_numbers

    data = ENVIRONMENT.data_dir
    user_ids += known_numbers(data / "landing", "users", originals)
    under_way = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    with _instance() as instance:
        running = instance.get_runs(dg.RunsFilter(statuses=under_way))
    if running:
        raise click.ClickException(
            f"run {running[0].run_id} is in progress: it would write what is erased. End it first"
        )
    try:
        with alone(data / "serving"):
            erased = erase_users(build_resources(ENVIRONMENT, SETTINGS)["warehouse"], SETTINGS.serving, user_ids)
    except (StoreError, OSError, RuntimeError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{'':45}{'found':>10}{'left':>10}")
    for place in erased:
        click.echo(f"{place.place:45}{place.found:>10,}{place.left:>10,}")
    if ENVIRONMENT.source == "simulated":
        click.echo("\nSimulated users come back with the next run over their days.")
    elif any(place.found for place in erased):
        click.echo("\nTables that count users together are stale now: make backfill STALE=1 makes them again.")


def _instance():
    import dagster as dg

    if not os.environ.get("DAGSTER_HOME"):
        raise click.ClickException(
            "DAGSTER_HOME is not set: it is the folder dagster_home of the data directory. Calls by way of make set it"
        )
    return dg.DagsterInstance.get()


def _told(runs: Iterable[object]) -> tuple[bool, float]:
    """Carry out runs, telling each; whether there were any, and how long they took."""
    import dagster as dg

    from pinnersage_assets.backfill import BackfillError
    from pinnersage_assets.files import HeldError, held
    from pinnersage_assets.partitions import ENVIRONMENT

    started, anything = time.monotonic(), False
    try:
        with held(ENVIRONMENT.data_dir / "backfill.lock"):
            for run in runs:
                anything = True
                click.echo(f"[{time.monotonic() - started:6.1f} s] {run}")
    except HeldError as error:
        raise click.ClickException(
            f"another backfill, or demo, is at work in {ENVIRONMENT.data_dir}: wait until it has ended"
        ) from error
    except BackfillError as error:
        raise click.ClickException(str(error)) from error
    except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError) as error:
        raise click.ClickException("interrupted; the same command goes on from here") from error
    return anything, time.monotonic() - started


def _show_demo(day: datetime.date) -> None:
    import duckdb

    from pinnersage_assets.partitions import ENVIRONMENT, SETTINGS
    from pinnersage_assets.resources import build_resources

    warehouse, tomorrow = build_resources(ENVIRONMENT, SETTINGS)["warehouse"], day + datetime.timedelta(days=1)
    with duckdb.connect(warehouse.published, read_only=True) as published:
        click.echo(f"\nModels of the day before, judged on the actions of {day} (evaluation.retrieval).")
        click.echo("400 random pins reach much relevance too, so compare by recall:\n")
        query = """
            SELECT model, round(relevance, 3) AS relevance, round(recall, 3) AS recall,
                round(set_size, 1) AS set_size, users
            FROM evaluation.retrieval WHERE dt = ? ORDER BY recall DESC
        """
        published.sql(query, params=[day]).show(max_rows=100)
    click.echo(
        f"""
Published database  {warehouse.published}
Dagster UI          make dev, then http://localhost:3000

Try next: `make sql` and the queries of README.md, or the day after: make backfill FROM={tomorrow} TO={tomorrow}"""
    )


if __name__ == "__main__":
    sys.exit(main())
