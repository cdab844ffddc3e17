#!/usr/bin/env bash
# Throughput per device for batch sizes, each of all devices together, and numbers of devices:
# bash launch/benchmark.sh WORKDIR "BATCH_SIZES" "DEVICE_COUNTS" [CONFIG] \
#     [--dry_run] [--config.key=value …]
# The devices are GPUs where there are any, else virtual ones that share the CPU's cores.  What is
# finished is not run again; what failed, for lack of memory say, is.
needs=3
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
workdir=$(absolute "$1") batch_sizes=$2 device_counts=$3 config=configs/pretrain.py
shift 3
if [[ ${1:---} != --* ]]; then
    config=$1
    shift
fi

IFS=, read -ra gpus <<<"${CUDA_VISIBLE_DEVICES-$(seq -s, 0 63)}"
status=0
for devices in $device_counts; do
    # A GPU heeds the first of these, a CPU the others.  With fewer threads than two a device, the
    # collectives of virtual devices wait for each other for ever.
    threads=$(($(nproc) > 2 * devices ? $(nproc) : 2 * devices))
    flags="${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=$devices"
    visible=$(IFS=, && echo "${gpus[*]:0:devices}")
    environment="CUDA_VISIBLE_DEVICES=$visible PJRT_NPROC=$threads"
    environment+=" XLA_FLAGS=$(quote "$flags")"
    for batch_size in $batch_sizes; do
        cell=$workdir/devices_${devices}_batch_$batch_size
        [ -e "$cell/benchmark.json" ] || run "$environment python -m pcm3_jax.benchmark $(
            quote --config="$config" --workdir="$cell" \
                --config.optimizer.batch_size="$batch_size" "$@"
        )" || status=$?
    done
done
run "python -m pcm3_jax.summary $(quote "$workdir")/*/"
exit "$status"
