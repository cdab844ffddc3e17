#!/usr/bin/env bash
# Pretrains and evaluates a recipe for several seeds, beside a random encoder and the raw
# coordinates: bash launch/compare.sh CONFIG WORKDIR "SEEDS" [--streams="motion joint bone"]
# [--dry_run] [--config.key=value …]
# The streams are those to pretrain and to fuse; without them it is that of the recipe.  What is
# finished is not run again.
needs=3 options="streams"
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

# Pretraining and the evaluations of one encoder, whose runs have names that end alike.
encoder() {
    local ending=$1 task
    shift
    start "pretrain_$ending" "$@"
    for task in retrieval linear_eval; do
        start "random_${task}_$ending" --config.task="$task" "$@"
        start "pretrained_${task}_$ending" --config.task="$task" \
            --config.encoder="$workdir/pretrain_$ending" "$@"
    done
}

start baseline --config.task=baseline "$@"
for seed in $seeds; do
    if [ -z "$streams" ]; then
        encoder "$seed" --config.seed="$seed" "$@"
        continue
    fi
    names= runs= weights=
    for stream in $streams; do
        encoder "${stream}_$seed" --config.seed="$seed" --config.views.stream="$stream" "$@"
        names+="_$stream" runs+="'$workdir/pretrained_linear_eval_${stream}_$seed'," weights+="1.0,"
    done
    start "fusion${names}_$seed" --config.task=fusion --config.seed="$seed" \
        --config.fusion.runs="($runs)" --config.fusion.weights="($weights)" "$@"
done
run "python -m pcm3_jax.summary $(quote "$workdir")/*/"
