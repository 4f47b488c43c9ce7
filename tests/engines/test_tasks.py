import polars as pl
import pytest

from pinnersage_assets.engines.tasks import Receipt, ReceiptError, checksum, verify


@pytest.fixture
def made(tmp_path):
    path = tmp_path / "made.parquet"
    pl.DataFrame({"value": range(100)}).write_parquet(path)
    return path, Receipt("0", 100, checksum(path), 0.1)


def test_a_true_receipt_is_believed(made):
    verify(*made)


@pytest.mark.parametrize("place", [0, 30, -1])
def test_one_changed_byte_is_noticed(made, place):
    path, receipt = made
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(ReceiptError, match=r"made.parquet is damaged: its checksum is \w+, its receipt says \w+$"):
        verify(path, receipt)


def test_rows_that_are_not_there_are_noticed(made):
    path, receipt = made
    with pytest.raises(ReceiptError, match=r"made\.parquet has 100 rows, its receipt says 1,100"):
        verify(path, Receipt("0", 1100, receipt.checksum, 0.1))


def test_what_is_missing_or_no_parquet_file_is_noticed(made, tmp_path):
    path, receipt = made
    path.write_text("rows")
    with pytest.raises(ReceiptError, match=r"made.parquet is no Parquet file: "):
        verify(path, Receipt("0", 100, checksum(path), 0.1))
    path.unlink()
    with pytest.raises(ReceiptError, match=r"made\.parquet is missing, its receipt says 100 rows"):
        verify(path, receipt)
