#!/usr/bin/env bash
# Pretrains and evaluates a configuration with several seeds, and compares it with a random encoder
# and with raw coordinates:
# bash launch/compare.sh CONFIG WORKDIR "SEEDS" [--streams="motion joint bone"] \
#     [--dry_run] [--config.key=value …]
# --streams lists the streams to pretrain and to fuse; the default is the configuration's stream.
# The runs are folders of WORKDIR, and the table is in WORKDIR/table.  Finished runs are reused.
needs=3 options="streams"
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
config=$1 workdir=$(absolute "$2")
read -ra seeds <<<"$3"
read -ra streams <<<"$streams"
shift 3

run "python -m pcm3_jax.main $(
    quote --config="$config" --workdir="$workdir/table" \
        --config.task=table --config.tables.number=0 --config.tables.runs="$workdir" \
        --config.tables.seeds="($(printf '%s,' "${seeds[@]}"))" \
        ${streams[0]:+--config.tables.streams="($(printf "'%s'," "${streams[@]}"))"} "$@"
) && cat $(quote "$workdir/table/results.md")"
