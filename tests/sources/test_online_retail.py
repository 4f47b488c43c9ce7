import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pinnersage_assets.sources.landing import LandingSource, landed_days
from pinnersage_assets.sources.online_retail import import_online_retail

REPOSITORY = Path(__file__).parents[2]
REAL = REPOSITORY.parent / "shared/data/online_retail_II/transactions_2009-12_2010-12.parquet"
FIT_BEFORE = datetime.date(2010, 9, 1)
NOON = "2010-01-04 12:00:00"

LINES = [
    # invoice, code, description, quantity, date, price, customer, expected reason
    ("1", "85123a ", "WHITE HEART", 6, NOON, 2.5, 13085, None),
    ("1", "85123A", "WHITE HANGING HEART", 6, NOON, 2.5, 13085, None),
    ("1", "21232", "nan", 1, NOON, 2.5, 13085, None),
    ("2", "21232", "TRINKET BOX", 1, "2010-01-05 09:30:00", 2.5, 13086, None),
    ("2", "85123A", "WHITE HANGING HEART", 1, "2010-01-05 09:30:00", 2.5, 13086, None),
    ("3", "DCGS0058", "MISO PRETTY GUM", 1, NOON, 0.8, 13086, None),
    ("3", "21232", "TRINKET BOX", 2, NOON, 2.5, 13086, None),
    ("3", "POST", "POSTAGE", 1, NOON, 18.0, 13086, "not_goods"),
    ("3", "m", "Manual", 1, NOON, 18.0, 13086, "not_goods"),
    ("3", "ADJUST2", "Adjustment", 1, NOON, 18.0, 13086, "not_goods"),
    ("3", "BANK CHARGES", "Bank Charges", 1, NOON, 18.0, 13086, "not_goods"),
    ("3", "TEST001", "This is a test product.", 1, NOON, 4.5, 13086, "not_goods"),
    ("3", "gift_0001_30", "Gift Voucher", 1, NOON, 30.0, 13086, "not_goods"),
    ("C4", "D", "Discount", -1, NOON, 9.0, 13086, "not_goods"),
    ("C4", "21232", "TRINKET BOX", -1, NOON, 2.5, 13086, "cancellation"),
    ("c5", "21232", "TRINKET BOX", 1, NOON, 2.5, None, "cancellation"),
    ("6", "21232", "short", -1, NOON, 0.0, 13086, "quantity_not_positive"),
    ("6", "21232", "TRINKET BOX", 1, NOON, 0.0, 13086, "price_not_positive"),
    ("6", "21232", "TRINKET BOX", 1, NOON, None, 13086, "number_unreadable"),
    ("6", "21232", "TRINKET BOX", 1, NOON, 2.5, None, "user_missing"),
    ("6", None, "TRINKET BOX", 1, NOON, 2.5, None, "item_missing"),
    ("6", "21232", "TRINKET BOX", 1, "04/01/2010", 2.5, None, "time_unparseable"),
]
COLUMNS = ["Invoice", "StockCode", "Description", "Quantity", "InvoiceDate", "Price", "Customer ID"]


def sheet() -> pl.DataFrame:
    return pl.DataFrame([line[:7] for line in LINES], schema=COLUMNS, orient="row")


def landed(folder: Path, table: str) -> pl.DataFrame:
    read = getattr(LandingSource(folder), table)
    return pl.concat([read(day) for day in landed_days(folder, table)])


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_purchases_are_landed_and_every_other_line_is_refused_with_its_reason(tmp_path, suffix):
    source, folder = tmp_path / f"sheet.{suffix}", tmp_path / "landing"
    if suffix == "csv":  # as pandas exports it: integers among which some are missing are floats
        sheet().with_columns(pl.col("Customer ID").cast(pl.Float64)).write_csv(source)
    else:
        sheet().write_parquet(source)
    report = import_online_retail(source, folder, datetime.date(2010, 1, 6), dimensions=2)

    refused = pl.read_parquet(folder / f"refused/sheet.{suffix}.parquet")
    expected = {row: line[7] for row, line in enumerate(LINES) if line[7]}
    assert dict(refused.select("row", "reason").iter_rows()) == expected
    assert report.rows_read == len(LINES) == report.rows_written + sum(report.refused.values())

    codes = dict(pl.read_parquet(folder / "dictionaries/items.parquet").iter_rows())
    actions = landed(folder, "actions").with_columns(pl.col("pin_id").replace_strict(codes).alias("code"))
    assert not (folder / "dictionaries/users.parquet").exists()
    assert actions["action"].unique().to_list() == ["repin"]
    assert actions.select("user_id", "code", "ts").rows() == [
        (int(line[6]), line[1].strip().upper(), datetime.datetime.fromisoformat(line[4]))
        for line in sorted((line for line in LINES if line[7] is None), key=lambda line: line[4])
    ]
    titles = landed(folder, "pins").select(pl.col("pin_id").replace_strict(codes), "title")
    assert dict(titles.iter_rows()) == {
        "85123A": "WHITE HANGING HEART",
        "21232": "TRINKET BOX",
        "DCGS0058": "MISO PRETTY GUM",
    }


def test_a_sheet_with_other_columns_is_said(tmp_path):
    sheet().rename({"Price": "UnitPrice"}).write_csv(tmp_path / "sheet.csv")
    with pytest.raises(ValueError, match=r"no column Price; it has Invoice, .*UnitPrice"):
        import_online_retail(tmp_path / "sheet.csv", tmp_path / "landing", FIT_BEFORE)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    if not REAL.exists():
        pytest.skip(f"{REAL} is missing: see its README in the project's data folder for where to get it")
    folder = tmp_path_factory.mktemp("retail")
    return folder, import_online_retail(REAL, folder, FIT_BEFORE)


def test_the_real_sheet_is_accounted_for_to_the_row(real):
    folder, report = real
    assert report.rows_read == 525_461
    assert report.rows_written + sum(report.refused.values()) == report.rows_read
    assert report.refused == {
        "user_missing": 102_949,
        "cancellation": 9_582,
        "not_goods": 2_966,
        "quantity_not_positive": 2_119,
        "price_not_positive": 1_534,
    }
    assert (report.users, report.items, report.pins, report.items_without_vector) == (4_285, 4_008, 3_729, 279)
    assert (report.days, report.first_day, report.last_day) == (
        307,
        datetime.date(2009, 12, 1),
        datetime.date(2010, 12, 9),
    )
    assert landed(folder, "actions").height == report.rows_written


def test_real_items_that_are_bought_together_are_near(real):
    """Neighbours of an item share a word of its title far more often than chance pairs do."""
    folder, _ = real
    pins = landed(folder, "pins")
    vectors = np.array(pins["embedding"].to_list(), dtype=np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -2)
    words = [set(title.split()) for title in pins["title"].fill_null("")]
    nearest = cosines.argmax(axis=1)
    chance = np.random.default_rng(0).permutation(len(words))
    near = np.mean([bool(words[i] & words[j]) for i, j in enumerate(nearest)])
    random = np.mean([bool(words[i] & words[j]) for i, j in enumerate(chance)])
    assert near > 3 * random


def test_real_vectors_know_nothing_of_what_follows(real, tmp_path):
    folder, _ = real
    sheet = pl.read_parquet(REAL)
    cut = sheet.filter(pl.col("InvoiceDate") < FIT_BEFORE.isoformat())
    cut.write_parquet(tmp_path / "cut.parquet")
    import_online_retail(tmp_path / "cut.parquet", tmp_path / "landing", FIT_BEFORE)
    columns = ["pin_id", "created_at", "embedding"]
    assert landed(tmp_path / "landing", "pins").select(columns).equals(landed(folder, "pins").select(columns))
