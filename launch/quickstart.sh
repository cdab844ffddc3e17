#!/usr/bin/env bash
# Sets everything up and shows it work: bash launch/quickstart.sh [WORKDIR] [--dry_run]
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
workdir=$(absolute "${1:-runs/quickstart}")

run "python -m tfds_builders.build synthetic_skeletons $(quote --data_dir="$workdir/data")"
run "bash launch/compare.sh configs/demo.py $(
    quote "$workdir" 0 --config.data.dir="$workdir/data"
)"
