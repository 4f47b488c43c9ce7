#!/bin/sh
# What a tighter threshold does to the clusters of a day. README.md, Settings, says what else can be set.
set -eu
export PINNERSAGE_SOURCE=landing PINNERSAGE_DATA_DIR="${PINNERSAGE_DATA_DIR:-$PWD/data/examples/mine}"
clusters="SELECT round(avg(clusters), 2) AS clusters_per_customer FROM
    (SELECT user_id, count(*) AS clusters FROM users.medoids WHERE dt = '2026-03-16' GROUP BY user_id);"

echo "$clusters" | make sql
printf '[clustering]\nalpha = 0.3\n' >"$PINNERSAGE_DATA_DIR/settings.toml"
make backfill FROM=2026-03-16 TO=2026-03-16 AGAIN=1
echo "$clusters" | make sql
rm "$PINNERSAGE_DATA_DIR/settings.toml"
