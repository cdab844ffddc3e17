#!/usr/bin/env bash
# Runs a configuration on all workers of a Cloud TPU VM or pod slice, which is created if it does not
# exist, and copies WORKDIR back to runs/:
# bash launch/tpu.sh NAME ZONE TYPE CONFIG WORKDIR [--project=PROJECT] [--version=SOFTWARE] \
#     [--setup=COMMAND] [--delete] [--dry_run] [--config.key=value …]
# CONFIG and WORKDIR are paths on the workers, relative to the checkout there.  With more than one
# worker, WORKDIR must be on a disk that all of them see.  --setup runs on every worker before the
# configuration, for instance to mount that disk or to fetch data.  --delete deletes the TPU after
# WORKDIR is copied.  TYPE is gcloud's accelerator type, for instance v5litepod-8.  The run ends when
# the connection does, so start this in tmux on a machine that stays on; the same command resumes it.
needs=5 options="project version setup delete" EXTRA=none
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
name=$1 zone=$2 type=$3 config=$4 workdir=$5
shift 5

case $type in
    v6e-*) software=v2-alpha-tpuv6e ;;
    v5p-*) software=v2-alpha-tpuv5 ;;
    v5lite*) software=v2-alpha-tpuv5-lite ;;
    *) software=tpu-ubuntu2204-base ;;
esac
where=$(quote --zone="$zone" ${project:+--project="$project"})

# Prints a `gcloud compute tpus tpu-vm` command for this TPU.
tpu() {
    printf 'gcloud compute tpus tpu-vm %s %s' "$(quote "$@")" "$where"
}

on_all_workers() {
    run "$(tpu ssh "$name" --worker=all --command="$1")"
}

run "$(tpu describe "$name") --format='value(state)' || $(
    tpu create "$name" --accelerator-type="$type" --version="${version:-$software}"
)"

run "mkdir -p build runs"
excluded=(--exclude-vcs --exclude=./.venv --exclude=./build --exclude=./data --exclude=./runs)
run "tar -czf build/checkout.tar.gz $(quote "${excluded[@]}") ."
run "$(tpu scp build/checkout.tar.gz "$name:checkout.tar.gz" --worker=all)"
on_all_workers "mkdir -p pcm3_jax && tar -xzf checkout.tar.gz -C pcm3_jax"

# The TPU image's Python is too old.
# shellcheck disable=SC2016
python='PATH="$HOME/.local/bin:$PATH"'
on_all_workers "pip install --quiet --user uv && $python && uv python install 3.12"
enter="$python && cd pcm3_jax && EXTRA=tpu && source launch/environment.sh"
on_all_workers "$enter"
if [ -n "$setup" ]; then on_all_workers "$enter && $setup"; fi
on_all_workers "$enter && exec python -m pcm3_jax.main $(
    quote --config="$config" --workdir="$workdir" --coordinator=auto "$@"
)"

# A relative path refers to the checkout.
[[ $workdir == /* ]] || workdir=pcm3_jax/$workdir
run "$(tpu scp "$name:$workdir" runs/ --recurse --worker=0)"
if [ -n "$delete" ]; then run "$(tpu delete "$name" --quiet)"; fi
