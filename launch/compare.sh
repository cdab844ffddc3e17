#!/usr/bin/env bash
# Pretrains and evaluates a recipe for several seeds, beside a random encoder and the raw
# coordinates: bash launch/compare.sh CONFIG WORKDIR "SEEDS" [--dry_run] [--config.key=value …]
# What is finished is not run again.
needs=3
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
config=$1 workdir=$(absolute "$2") seeds=$3
shift 3

# One run of the recipe in a folder of that name.
start() {
    local name=$1
    shift
    [ ! -e "$workdir/$name/results.json" ] || return 0
    [ "$dry_run" ] || echo "== $name"
    run "python -m pcm3_jax.main $(
        quote --config="$config" --workdir="$workdir/$name" "$@"
    )"
}

start baseline --config.task=baseline "$@"
for seed in $seeds; do
    start "pretrain_$seed" --config.seed="$seed" "$@"
    for task in retrieval linear_eval; do
        start "random_${task}_$seed" --config.task="$task" --config.seed="$seed" "$@"
        start "pretrained_${task}_$seed" --config.task="$task" --config.seed="$seed" \
            --config.encoder="$workdir/pretrain_$seed" "$@"
    done
done
run "python -m pcm3_jax.summary $(quote "$workdir")/*/"
