#!/bin/sh
# Make src/oneclip/zoo/pocket.safetensors. Run it in the root of the repository, with a folder for intermediate files.
set -eu
work=${1:?usage: sh recipes/pocket/make.sh WORK}
[ -e "$work/data/table.parquet" ] || python -m recipes.pocket.build --out "$work/data" --cache "$work/packages"
[ -e "$work/data/teacher.npz" ] || python -m recipes.pocket.teacher --data "$work/data" --cache "$work/packages"
python -m recipes.pocket.train --data "$work/data" --out "$work/run"
python -m recipes.pocket.publish --run "$work/run" --data "$work/data"
