#!/usr/bin/env bash
# Sets everything up and shows it work: bash launch/quickstart.sh [WORKDIR]
workdir=$(realpath -m "${1:-runs/quickstart}")
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

python -m tfds_builders.build synthetic_skeletons --data_dir="$workdir/data"
bash launch/compare.sh configs/demo.py "$workdir" 0 --config.data.dir="$workdir/data"
