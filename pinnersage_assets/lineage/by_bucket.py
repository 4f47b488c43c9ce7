"""What assets of many users or pins share: a kernel over buckets of them, on the engine of the run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pinnersage_assets.engines.engine import Engine, Progress
from pinnersage_assets.engines.tasks import Task, verify
from pinnersage_assets.warehouse.buckets import Bucket, BucketError


def map_buckets(
    engine: Engine,
    kernel: str,
    buckets: Sequence[Bucket],
    parameters: Mapping[str, Any],
    folder: Path,
    on_progress: Progress,
    keeps_rows: bool = True,
) -> list[Path]:
    """Run a kernel over buckets, and verify what it made.

    Args:
        engine: where.
        kernel: its import path.
        buckets: what to read.
        parameters: what all tasks share, JSON-able.
        folder: does not exist yet; gets the results.
        on_progress: called with the buckets done and the buckets in all.
        keeps_rows: whether the kernel must make as many rows of a bucket as it has.

    Returns:
        The files, those of the first bucket first.

    Raises:
        TaskFailedError: a bucket could not be done.
        ReceiptError: a file was damaged after it had been received.
        BucketError: a kernel made more or fewer rows.
    """
    folder.mkdir()
    tasks = [Task(bucket.key, bucket.path, folder / f"{bucket.path.stem}.parquet") for bucket in buckets]
    receipts = {receipt.key: receipt for receipt in engine.map(kernel, tasks, parameters, on_progress)}
    for bucket, task in zip(buckets, tasks, strict=True):
        # Once more: the first file may have waited for the last one for long.
        verify(task.destination, receipts[task.key])
        if keeps_rows and receipts[task.key].rows != bucket.rows:
            raise BucketError(
                f"{kernel} made {receipts[task.key].rows:,} rows of bucket {bucket.key}, which has {bucket.rows:,}"
            )
    return [task.destination for task in tasks]
