#!/usr/bin/env bash
# Pretrains and evaluates a recipe for several seeds, beside a random encoder and the raw
# coordinates: bash launch/compare.sh CONFIG WORKDIR "SEEDS" [--streams="motion joint bone"]
# [--dry_run] [--config.key=value …]
# The streams are those to pretrain and to fuse; without them it is that of the recipe.  The runs
# are folders of WORKDIR, and the table is in WORKDIR/table.  Finished runs are not made again.
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
