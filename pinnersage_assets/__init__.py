"""PinnerSage as a Dagster asset graph over one DuckDB file."""
