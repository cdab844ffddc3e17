#!/usr/bin/env bash
# Measures throughput per device for global batch sizes and numbers of devices:
# bash launch/benchmark.sh WORKDIR "BATCH_SIZES" "DEVICE_COUNTS" [CONFIG] \
#     [--dry_run] [--config.key=value …]
# The devices are GPUs if there are any, otherwise virtual devices that share the CPU's cores.
# Finished measurements are kept; failed ones, for instance for lack of memory, are repeated.
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
    # CUDA_VISIBLE_DEVICES is for GPUs, PJRT_NPROC and XLA_FLAGS are for CPUs.  With fewer than two
    # threads per virtual device, collectives deadlock.
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
