import dataclasses
import datetime
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from pinnersage_assets.warehouse.checks import PartitionCheck, checks_of_tests, table_checks
from pinnersage_assets.warehouse.partitions import PartitionIOManager
from pinnersage_assets.warehouse.tables import Column, SchemaError, Table, TableTest, all_tables

DAYS = [datetime.date(2026, 3, day) for day in (1, 2, 3, 4)]
DAILY = dg.DailyPartitionsDefinition(start_date=DAYS[0].isoformat())
TABLE = all_tables()["corpus.near_duplicates"]


def with_tests(*tests: TableTest) -> Table:
    return dataclasses.replace(TABLE, tests=tests)


def rows(*values: tuple) -> pl.DataFrame:
    """Rows of corpus.near_duplicates: day, pin_id, canonical_pin_id."""
    schema = {"dt": pl.Date, "pin_id": pl.Int64, "canonical_pin_id": pl.Int64}
    return pl.DataFrame(values, schema=schema, orient="row").with_columns(cosine=pl.lit(1.0, pl.Float32))


@pytest.fixture
def evaluate(warehouse):
    """Materialise rows of some days together with checks; the evaluations, by the name of the check."""

    def evaluate(checks: list[PartitionCheck], days: list[datetime.date], values: pl.DataFrame, settings=None):
        @dg.asset(
            key=["corpus", "near_duplicates"], partitions_def=DAILY, backfill_policy=dg.BackfillPolicy.single_run()
        )
        def near_duplicates():
            return values

        bounds = {"start": days[0], "end": days[-1]}
        result = dg.materialize(
            [near_duplicates, table_checks(TABLE, checks, DAILY)],
            resources={
                "io_manager": PartitionIOManager(warehouse=warehouse),
                "warehouse": warehouse,
                "settings": settings,
            },
            tags={f"dagster/asset_partition_range_{name}": day.isoformat() for name, day in bounds.items()},
            instance=dg.DagsterInstance.ephemeral(),
            raise_on_error=False,
        )
        evaluations = {found.check_name: found for found in result.get_asset_check_evaluations()}
        assert set(evaluations) == {check.name for check in checks}
        return evaluations

    return evaluate


@pytest.fixture
def evaluate_test(evaluate):
    def evaluate_test(test: TableTest, days: list[datetime.date], values: pl.DataFrame):
        [evaluation] = evaluate(checks_of_tests(with_tests(test), {"pins": "staging.pins"}), days, values).values()
        return evaluation

    return evaluate_test


def failing_rows(evaluation) -> int:
    assert evaluation.passed == (evaluation.metadata["failing rows"].value == 0)
    return evaluation.metadata["failing rows"].value


def statuses(ledger) -> list[str]:
    return [status for *_, status in ledger("corpus.near_duplicates")]


GOOD = rows(*((day, day.day, 1) for day in DAYS))


@pytest.mark.parametrize(
    ("value", "failing", "status"),
    [((DAYS[1], 2, 1), 0, "passed"), ((DAYS[1], None, 1), 1, "failed")],
    ids=["good", "null"],
)
def test_not_null(evaluate_test, ledger, value, failing, status):
    evaluation = evaluate_test(TableTest("not_null", "pin_id"), DAYS[:3], rows((DAYS[0], 1, 1), value))
    assert failing_rows(evaluation) == failing
    assert statuses(ledger) == ["passed", status, "passed"]


def test_not_null_of_several_columns_is_one_check(evaluate, ledger):
    tests = [TableTest("not_null", column) for column in ("dt", "pin_id", "canonical_pin_id")]
    checks = checks_of_tests(with_tests(*tests), {})
    values = rows((DAYS[0], None, 1), (DAYS[0], 1, None), (DAYS[0], None, None), (DAYS[0], 5, 5))
    assert failing_rows(evaluate(checks, DAYS[:1], values)["not_null"]) == 3
    assert checks[0].description == "`dt`, `pin_id`, `canonical_pin_id`: never null."


@pytest.mark.parametrize(("value", "failing"), [(1, 0), (7, 1), (None, 0)], ids=["one of them", "another", "null"])
def test_accepted_values(evaluate_test, ledger, value, failing):
    values = rows((DAYS[0], 1, 1), (DAYS[1], 2, value))
    test = TableTest("accepted_values", "canonical_pin_id", {"values": [1, 2]})
    assert failing_rows(evaluate_test(test, DAYS[:2], values)) == failing
    assert statuses(ledger) == ["passed", "failed" if failing else "passed"]


def test_accepted_values_may_hold_quotes(evaluate_test):
    test = TableTest("accepted_values", "pin_id::varchar", {"values": ["it's", "2"]})
    assert failing_rows(evaluate_test(test, DAYS[:1], rows((DAYS[0], 2, 1), (DAYS[0], 3, 1)))) == 1


def test_unique_within_a_day(evaluate_test, ledger):
    test = TableTest("unique", "(dt, pin_id)")
    assert failing_rows(evaluate_test(test, DAYS[:3], rows(*((day, 1, 1) for day in DAYS[:3])))) == 0
    repeated = rows((DAYS[0], 1, 1), (DAYS[1], 1, 1), (DAYS[1], 1, 2), (DAYS[2], 1, 1))
    assert failing_rows(evaluate_test(test, DAYS[:3], repeated)) == 1
    assert statuses(ledger) == ["passed", "failed", "passed"]


def test_unique_over_all_days(evaluate_test, ledger):
    test = TableTest("unique", "pin_id")
    assert failing_rows(evaluate_test(test, DAYS[:2], rows((DAYS[0], 1, 1), (DAYS[1], 2, 1)))) == 0
    # The day that brings a pin again is bad; nulls repeat nothing.
    again = rows((DAYS[2], 1, 1), (DAYS[2], None, 1), (DAYS[3], None, 1))
    assert failing_rows(evaluate_test(test, DAYS[2:], again)) == 1
    assert statuses(ledger) == ["passed", "passed", "failed", "passed"]
    # A day that is written again must not take what a later day has: both would stay in the table.
    taken = evaluate_test(test, DAYS[1:2], rows((DAYS[1], 1, 1)))
    assert failing_rows(taken) == 1
    assert "Materialise the later of the days" in taken.description


def test_an_expression_is_of_a_day_only_where_it_names_dt():
    """`width` has the letters dt."""
    for expression, everywhere in [("width", True), ("(dt, width)", False), ("dt", False), ("(width, dt_of)", True)]:
        [check] = checks_of_tests(with_tests(TableTest("unique", expression)), {})
        assert ("over all days" in check.description) == everywhere


def test_relationships_know_only_what_came_by_then(write, evaluate_test, ledger):
    columns = {column.name: pl.lit(None) for column in all_tables()["staging.pins"].columns}
    for day in DAYS[:2]:
        write("staging.pins", day, pl.DataFrame({"n": [0]}).select(**columns | {"dt": day, "pin_id": 10 * day.day}))
    test = TableTest("relationships", "canonical_pin_id", {"to": "ref('pins')", "field": "pin_id"})
    known = rows((DAYS[0], 1, 10), (DAYS[1], 2, 10), (DAYS[1], 3, 20), (DAYS[2], 4, 20))
    assert failing_rows(evaluate_test(test, DAYS[:3], known)) == 0
    unknown = rows((DAYS[0], 1, 20), (DAYS[1], 2, 99), (DAYS[2], 3, 10))
    assert failing_rows(evaluate_test(test, DAYS[:3], unknown)) == 2
    assert statuses(ledger) == ["failed", "failed", "passed"]


def test_relationships_with_what_is_no_model_are_an_error():
    test = TableTest("relationships", "pin_id", {"to": "ref('pns')", "field": "pin_id"})
    with pytest.raises(SchemaError, match=r"relationships_pin_id of corpus.near_duplicates refers to 'pns'"):
        checks_of_tests(with_tests(test), {"pins": "staging.pins"})


def test_a_warning_does_not_fail_the_ledger(evaluate_test, ledger):
    test = TableTest("accepted_values", "pin_id", {"values": [1]}, blocking=False)
    evaluation = evaluate_test(test, DAYS[:2], rows((DAYS[0], 9, 1)))
    assert failing_rows(evaluation) == 1
    assert evaluation.severity == dg.AssetCheckSeverity.WARN
    assert statuses(ledger) == ["passed", "passed"]


def test_a_day_fails_if_any_of_its_checks_does(evaluate, ledger):
    tests = [TableTest("not_null", "pin_id"), TableTest("accepted_values", "canonical_pin_id", {"values": [1]})]
    values = rows((DAYS[0], None, 1), (DAYS[1], 1, 2), (DAYS[2], 1, 1))
    evaluations = evaluate(checks_of_tests(with_tests(*tests), {}), DAYS, values)
    assert not any(evaluation.passed for evaluation in evaluations.values())
    assert statuses(ledger) == ["failed", "failed", "passed", "passed"]


def test_checks_that_pass_again_mend_the_ledger(evaluate_test, ledger):
    test = TableTest("not_null", "pin_id")
    evaluate_test(test, DAYS, rows((DAYS[1], None, 1)))
    assert statuses(ledger) == ["passed", "failed", "passed", "passed"]
    evaluate_test(test, DAYS, GOOD)
    assert statuses(ledger) == ["passed"] * 4


def test_examples_are_shown_but_only_a_few(evaluate_test):
    values = rows(*((DAYS[0], None, canonical) for canonical in range(100, 108)))
    evaluation = evaluate_test(TableTest("not_null", "pin_id"), DAYS[:1], values)
    examples = [record.data for record in evaluation.metadata["examples"].records]
    assert len(examples) == 5
    assert {example["canonical_pin_id"] for example in examples} <= {str(canonical) for canonical in range(100, 108)}
    assert failing_rows(evaluation) == 8
    assert "8 rows break it" in evaluation.description


def test_an_own_check_gets_the_days_and_its_parameters(evaluate, ledger):
    check = PartitionCheck(
        "few_pins",
        "At most so many pins a day.",
        "SELECT dt, count(*) AS pins FROM corpus.near_duplicates WHERE dt BETWEEN $first AND $last "
        "GROUP BY dt HAVING count(*) > $most",
        parameters=lambda settings: {"most": settings["most"], "of_no_use_here": 1},
    )
    values = rows((DAYS[0], 1, 1), (DAYS[1], 1, 1), (DAYS[1], 2, 1))
    evaluation = evaluate([check], DAYS[:2], values, settings={"most": 1})["few_pins"]
    assert failing_rows(evaluation) == 1
    assert [record.data["pins"] for record in evaluation.metadata["examples"].records] == ["2"]
    assert statuses(ledger) == ["passed", "failed"]


def test_checks_run_after_what_they_read():
    columns = (Column("dt", "DATE", "Day."),)
    table = Table("corpus", "some", Path("schema.yml"), "Some.", columns, (), {})
    definition = table_checks(table, [PartitionCheck("c", "C.", "", reads=("staging.pins", "corpus.some"))], DAILY)
    [spec] = definition.check_specs
    assert {dep.asset_key.to_user_string() for dep in spec.additional_deps} == {"staging/pins"}
