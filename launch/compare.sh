#!/usr/bin/env bash
# Pretrains and evaluates a recipe for several seeds, beside a random encoder and the raw
# coordinates: bash launch/compare.sh CONFIG WORKDIR "SEEDS" [--config.key=value …]
# What is finished is not run again.
config=$1 workdir=$(realpath -m "$2") seeds=$3
shift 3
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

run() {
    local name=$1
    shift
    if [ ! -e "$workdir/$name/results.json" ]; then
        echo "== $name"
        python -m pcm3_jax.main --config="$config" --workdir="$workdir/$name" "$@"
    fi
}

run baseline --config.task=baseline "$@"
for seed in $seeds; do
    run "pretrain_$seed" --config.seed="$seed" "$@"
    for task in retrieval linear_eval; do
        run "random_${task}_$seed" --config.task="$task" --config.seed="$seed" "$@"
        run "pretrained_${task}_$seed" --config.task="$task" --config.seed="$seed" \
            --config.encoder="$workdir/pretrain_$seed" "$@"
    done
done
python -m pcm3_jax.summary "$workdir"/*/
