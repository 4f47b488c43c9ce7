#!/bin/sh
# From a file of events to recommendations. Yours has other columns: say which with --user, --item and --time.
set -eu
export PINNERSAGE_SOURCE=landing PINNERSAGE_DATA_DIR="${PINNERSAGE_DATA_DIR:-$PWD/data/examples/mine}"

# Vectors are fitted to the days before the 15th; models are judged on what comes after.
.venv/bin/python -m pinnersage_assets import-events data/examples/events.csv --replace \
    --user customer --item product --time bought_at --title title --vectors-before 2026-03-15 --dimensions 16

make backfill FROM=2026-03-16 TO=2026-03-16

echo "SELECT model, round(recall, 2) AS recall, users FROM evaluation.retrieval WHERE model <> 'recommended' ORDER BY recall DESC LIMIT 5;" | make sql
