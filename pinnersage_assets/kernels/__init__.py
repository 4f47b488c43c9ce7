"""What engines run: functions that read one file, call the model, and write one Parquet file. No Dagster, no DuckDB."""
