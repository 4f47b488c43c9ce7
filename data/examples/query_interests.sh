#!/bin/sh
# What some customers are interested in, under the ids of events.csv: the importer has numbered them.
set -eu
export PINNERSAGE_SOURCE=landing PINNERSAGE_DATA_DIR="${PINNERSAGE_DATA_DIR:-$PWD/data/examples/mine}"

make sql <<END
SELECT users.original AS customer, i.interest, i.title, round(i.share, 2) AS share
FROM marts.interests AS i
JOIN read_parquet('$PINNERSAGE_DATA_DIR/landing/dictionaries/users.parquet') AS users ON users.id = i.user_id
WHERE i.dt = '2026-03-16' AND i.interest <= 2
ORDER BY customer, interest LIMIT 10;
END
