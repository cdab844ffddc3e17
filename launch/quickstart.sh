#!/usr/bin/env bash
# Installs everything, builds a small data set, pretrains on it and prints a table:
# bash launch/quickstart.sh [WORKDIR] [--dry_run] [--config.key=value …]
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
workdir=runs/quickstart
if [[ ${1:---} != --* ]]; then
    workdir=$1
    shift
fi
workdir=$(absolute "$workdir")

run "python -m tfds_builders.build synthetic_skeletons $(quote --data_dir="$workdir/data")"
run "bash launch/compare.sh configs/demo.py $(
    quote "$workdir" 0 --config.data.dir="$workdir/data" "$@"
)"
