# shellcheck shell=bash
# Sourced by the other scripts: makes .venv in the repository and activates it.
# EXTRA=gpu or tpu installs JAX for that device, EXTRA= for the CPU alone; EXTRA=none takes the Python
# that is active.  Without EXTRA nvidia-smi tells whether there is a GPU, and gpu becomes gpu12, with
# CUDA 12, where the GPU or its driver is too old for CUDA 13.
#
# A script may set before: needs, how many arguments it cannot do without; and options, names of
# its own flags.  --NAME=VALUE among the arguments then becomes the variable NAME, and the other
# arguments stay as they are.  Under --dry_run nothing is installed, and `run` only prints.
set -euo pipefail
caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The arguments as the shell would take them back.
quote() {
    local argument line=
    for argument; do
        [[ $argument =~ ^[[:alnum:]_./=:,@%+-]+$ ]] || argument=${argument@Q}
        line+=" $argument"
    done
    printf '%s' "${line:1}"
}

# Runs a line of shell.  What --dry_run shows is the very line.
run() {
    if [ -n "$dry_run" ]; then printf '%s\n' "$1"; else eval "$1"; fi
}

# A path of the caller's, who may have been in another directory.
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
    # Where JAX cannot use the GPU it would fall back to the CPU, a hundred times slower.
    export JAX_PLATFORMS=${JAX_PLATFORMS-cuda,cpu}
    # JAX takes three quarters of a GPU's memory by itself.
    if [ -z "${XLA_PYTHON_CLIENT_MEM_FRACTION:-}" ]; then
        export XLA_CLIENT_MEM_FRACTION=${XLA_CLIENT_MEM_FRACTION:-0.92}
    fi
fi

# Large pages of memory: a step on a CPU takes up to a tenth less time.
export GLIBC_TUNABLES=${GLIBC_TUNABLES-glibc.malloc.hugetlb=1}

options="dry_run ${options:-}"
for name in $options; do printf -v "$name" ''; done
for argument in "$@"; do
    shift
    name=${argument%%=*}
    if [[ $name == --?* && " $options " == *" ${name#--} "* ]]; then
        # A flag without a value gets its own name, which is not empty.
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
    # JAX takes CUDA of one version only.
    case ${EXTRA:-} in
        gpu) other=gpu12 ;;
        gpu12) other=gpu ;;
        *) other= ;;
    esac
    if [ -n "$other" ] && [ -e ".venv/ready_$other" ]; then
        echo "error: .venv is made for EXTRA=$other, but here it is $EXTRA; remove .venv." >&2
        exit 1
    fi
    if [ ! -e "$ready" ]; then
        for python in python3.12 python3.11 python3; do
            # A version manager's shim may exist for a version that is not there.
            "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
        done
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
            echo "error: Python 3.11 or newer is needed; install it and run this again." >&2
            exit 1
        }
        # An extra is added to what is there.
        if [ ! -e .venv/ready ]; then
            rm -rf .venv
            "$python" -m venv .venv
        fi
        echo "Installing into .venv; the first time this takes minutes." >&2
        .venv/bin/pip install --quiet --disable-pip-version-check \
            --constraint constraints.txt --editable ".[test${EXTRA:+,$EXTRA}]"
        # Written last, so that an interrupted installation is done again.
        touch .venv/ready "$ready"
    fi
    source .venv/bin/activate
fi
