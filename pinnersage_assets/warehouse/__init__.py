"""DuckDB: connection, partition writes, the ledger, SQL models, checks, publishing."""
