# shellcheck shell=bash
# Sourced by the other scripts: creates .venv in the repository and activates it.
# EXTRA=gpu or tpu installs JAX for that device, EXTRA= for the CPU only; EXTRA=none uses the active
# Python.  If EXTRA is not set, nvidia-smi decides whether there is a GPU.  gpu becomes gpu12 (CUDA
# 12) if the GPU or its driver is too old for CUDA 13.
#
# Before sourcing this file a script may set `needs`, the number of required arguments, and
# `options`, the names of its own flags.  --NAME=VALUE among the arguments then becomes the variable
# NAME; the other arguments are kept.  With --dry_run nothing is installed, and `run` only prints.
set -euo pipefail
caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The arguments, quoted so that the shell reads them back unchanged.
quote() {
    local argument line=
    for argument; do
        [[ $argument =~ ^[[:alnum:]_./=:,@%+-]+$ ]] || argument=${argument@Q}
        line+=" $argument"
    done
    printf '%s' "${line:1}"
}

# Runs a line of shell, or prints it with --dry_run.
run() {
    if [ -n "$dry_run" ]; then printf '%s\n' "$1"; else eval "$1"; fi
}

# An absolute path; relative paths start from the caller's directory.
absolute() {
    (cd "$caller" && realpath -m -- "$1")
}

if [ "${EXTRA-gpu}" = gpu ] && gpus=$(
    nvidia-smi --query-gpu=driver_version,compute_cap --format=csv,noheader 2>/dev/null
); then
    # CUDA 13 needs a driver of the 580 series or newer, and a GPU of compute capability 7.5.
    old='$1 + 0 < 580 || $2 + 0 < 7.5 { old = 12 } END { print "gpu" old }'
    EXTRA=$(awk -F ', ' "$old" <<<"$gpus")
fi

if [[ ${EXTRA:-} == gpu* ]]; then
    # Makes JAX fail if it cannot use the GPU; by default it would fall back to the CPU, which is a
    # hundred times slower.
    export JAX_PLATFORMS=${JAX_PLATFORMS-cuda,cpu}
    # By default JAX allocates three quarters of the GPU's memory.
    if [ -z "${XLA_PYTHON_CLIENT_MEM_FRACTION:-}" ]; then
        export XLA_CLIENT_MEM_FRACTION=${XLA_CLIENT_MEM_FRACTION:-0.92}
    fi
fi

# Huge pages save up to a tenth of a step's time on CPUs.
export GLIBC_TUNABLES=${GLIBC_TUNABLES-glibc.malloc.hugetlb=1}

options="dry_run ${options:-}"
for name in $options; do printf -v "$name" ''; done
for argument in "$@"; do
    shift
    name=${argument%%=*}
    if [[ $name == --?* && " $options " == *" ${name#--} "* ]]; then
        # A flag without a value is set to its own name, which is not empty.
        printf -v "${name#--}" '%s' "${argument#*=}"
    else
        set -- "$@" "$argument"
    fi
done
if [ $# -lt "${needs:-0}" ]; then
    sed -n '2,/^[^#]/s/^# //p' "$0" >&2
    exit 2
fi

if [ -z "$dry_run" ] && [ "${EXTRA:-}" != none ]; then
    ready=.venv/ready${EXTRA:+_$EXTRA}
    # JAX plugins for CUDA 12 and 13 cannot be installed together.
    case ${EXTRA:-} in
        gpu) other=gpu12 ;;
        gpu12) other=gpu ;;
        *) other= ;;
    esac
    if [ -n "$other" ] && [ -e ".venv/ready_$other" ]; then
        echo "error: .venv was created with EXTRA=$other, but EXTRA is now $EXTRA; remove .venv." >&2
        exit 1
    fi
    if [ ! -e "$ready" ]; then
        for python in python3.12 python3.11 python3; do
            # A version manager may have a shim for a Python that is not installed.
            "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
        done
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
            echo "error: Python 3.11 or newer is needed; install it and run this again." >&2
            exit 1
        }
        # A further extra is installed into the existing environment.
        if [ ! -e .venv/ready ]; then
            rm -rf .venv
            "$python" -m venv .venv
        fi
        echo "Installing into .venv; the first time this takes a few minutes." >&2
        .venv/bin/pip install --quiet --disable-pip-version-check \
            --constraint constraints.txt --editable ".[test${EXTRA:+,$EXTRA}]"
        # Written last, so that an interrupted installation is repeated.
        touch .venv/ready "$ready"
    fi
    source .venv/bin/activate
fi
