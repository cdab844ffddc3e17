#!/usr/bin/env bash
# Makes the encoders that come with the package (docs/model_card.md) and measures them:
# bash launch/ready.sh WORKDIR IRDS KINDER_GATOR [--dry_run]
# IRDS is the download of IntelliRehabDS, KINDER_GATOR a folder in the form of docs/own_data.md.
# About half an hour on two CPU cores; finished runs are kept.
needs=3
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
workdir=$(absolute "$1") irds=$(absolute "$2") kinder_gator=$(absolute "$3")
data=$workdir/data shipped=$PWD/pcm3_jax/inference/shipped

for config in n12000x1000 motions_n4000; do
    run "python -m tfds_builders.build synthetic_skeletons/$config $(quote --data_dir="$data")"
done
run "python -m tfds_builders.build intellirehabds/cross_subject $(
    quote --manual_dir="$irds" --data_dir="$data"
)"
run "python -m tfds_builders.build own_skeletons/kinect_v1_20 $(
    quote --manual_dir="$kinder_gator" --data_dir="$data"
)"
runs=()
for stream in joint bone motion; do
    runs+=("$workdir/$stream")
    run "python -m pcm3_jax.main --config=configs/ready.py:$stream $(
        quote --workdir="$workdir/$stream" --config.data.dir="$data"
    )"
done
run "python -m pcm3_jax.convert export $(
    quote "${runs[@]}" "$shipped/base.safetensors" \
        --whiten=synthetic_skeletons/motions_n4000 --data_dir="$data"
)"
run "python -m pcm3_jax.fit intellirehabds/cross_subject:train $(
    quote --model="$shipped/base.safetensors" --out="$shipped/base.safetensors" --data_dir="$data"
)"
run "python -m pcm3_jax.benchmark.ready $(quote --data_dir="$data" --workdir="$workdir/measured")"
