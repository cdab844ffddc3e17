#!/usr/bin/env bash
# Runs a configuration on all GPUs of this host, or on those that --gpus names:
# bash launch/gpu.sh CONFIG WORKDIR [--gpus=0,1] [--dry_run] [--config.key=value …]
EXTRA=${EXTRA-gpu} needs=2 options="gpus"
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
config=$1 workdir=$(absolute "$2")
shift 2

# `exec` replaces this shell, so that signals reach Python.
run "${gpus:+CUDA_VISIBLE_DEVICES=$(quote "$gpus") }exec python -m pcm3_jax.main $(
    quote --config="$config" --workdir="$workdir" "$@"
)"
