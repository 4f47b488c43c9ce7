"""Online Retail II (Chen, 2012; UCI Machine Learning Repository, CC BY 4.0) as landing folders.

What belongs here: what the columns of this data set mean. Everything else is the general importer's
(``events``).

A user is a customer, a pin is a stock code, and each line of an invoice that buys something is an action
``repin``. Stock codes are stripped and upper-cased, since the same article is entered as 85123A and 85123a
(4,578 spellings of 4,427 articles in the first sheet). Local time in the United Kingdom is taken as UTC: an
hour off in summer, and no shop invoice is within an hour of midnight.
"""

import datetime
from pathlib import Path

import polars as pl

from pinnersage_assets.sources.event_files import id_text, read_table, require_columns, timestamps
from pinnersage_assets.sources.events import ImportReport, VectorOptions, land_events

_COLUMNS = ("Invoice", "StockCode", "Description", "Quantity", "InvoiceDate", "Price", "Customer ID")
# Postage, carriage, manual entries, discounts, samples, bad debts, adjustments, fees, commissions, tests and
# vouchers.
_NOT_GOODS = r"^(POST|DOT|C[23]|M|D|S|B|ADJUST\d*|BANK CHARGES|AMAZONFEE|CRUK|TEST\d*|GIFT(_.*)?)$"


def import_online_retail(
    source: Path,
    folder: Path,
    vectors_before: datetime.date,
    dimensions: int = 64,
    seed: int = 0,
    replace: bool = False,
) -> ImportReport:
    """Turn the transactions into landing folders; see `events.import_events` for what is written and how.

    Refused, in this order of reasons: item_missing, time_missing, time_unparseable, time_out_of_range,
    not_goods (postage, fees, vouchers, ...), cancellation (the invoice starts with C), number_unreadable,
    quantity_not_positive (returns and stock corrections), price_not_positive (gifts and corrections),
    user_missing (unknown customer).

    Vectors are fitted to the invoices of known customers. Those of unknown ones could be used as well, but
    made the vectors worse: recall 0.213 against 0.245 (the experiment of ``model.cooccurrence``).

    Args:
        source: a sheet of the workbook, as CSV or Parquet with the workbook's column names.
        folder: the landing folder, ``<data dir>/landing``.
        vectors_before: vectors are fitted to the purchases before this day; judge them on that day and later.
        dimensions: length of a vector.
        seed: of the fit.
        replace: overwrite days that exist.

    Raises:
        ValueError: as for `events.import_events`.
    """
    table = read_table(source)
    require_columns(table, _COLUMNS, source)
    time, time_problem = timestamps(table["InvoiceDate"], numbers_are_text=False)
    events = pl.DataFrame(
        {
            # A CSV export by way of pandas writes 13085.0, as some customers are missing.
            "user": id_text(table["Customer ID"]).str.replace(r"\.0+$", ""),
            "item": id_text(table["StockCode"]).str.strip_chars().str.to_uppercase(),
            "ts": time,
            "time_problem": time_problem,
            # pandas again: a missing description is the text nan.
            "title": id_text(table["Description"]).str.strip_chars().replace("nan", None),
            "basket": id_text(table["Invoice"]).str.strip_chars().str.to_uppercase(),
            "quantity": table["Quantity"].cast(pl.Float64, strict=False),
            "price": table["Price"].cast(pl.Float64, strict=False),
        }
    ).with_columns(pl.lit("repin").alias("action"))
    reason = (
        pl.when(pl.col("item").is_null())
        .then(pl.lit("item_missing"))
        .when(pl.col("ts").is_null())
        .then(pl.col("time_problem"))
        .when(pl.col("item").str.contains(_NOT_GOODS))
        .then(pl.lit("not_goods"))
        .when(pl.col("basket").str.starts_with("C"))
        .then(pl.lit("cancellation"))
        .when(~(pl.col("quantity").is_finite() & pl.col("price").is_finite()).fill_null(False))
        .then(pl.lit("number_unreadable"))
        .when(pl.col("quantity") <= 0)
        .then(pl.lit("quantity_not_positive"))
        .when(pl.col("price") <= 0)
        .then(pl.lit("price_not_positive"))
        .when(pl.col("user").is_null())
        .then(pl.lit("user_missing"))
    )
    options = VectorOptions(before=vectors_before, dimensions=dimensions, seed=seed)
    return land_events(
        events.with_columns(reason.alias("reason")), table, source.name, folder, options, "StockCode", replace
    )
