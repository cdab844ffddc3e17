# Sourced by the other scripts: makes .venv in the repository and activates it.
# EXTRA=gpu or EXTRA=tpu installs JAX for that device.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [ ! -e .venv/ready ]; then
    for python in python3.12 python3.11 python3; do
        # A version manager's shim may exist for a version that is not there.
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
    done
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "error: Python 3.11 or newer is needed; install it and run this again." >&2
        exit 1
    }
    rm -rf .venv
    "$python" -m venv .venv
    .venv/bin/pip install --quiet --disable-pip-version-check \
        --constraint constraints.txt --editable ".[test${EXTRA:+,$EXTRA}]"
    # Written last, so that an interrupted installation is done again.
    touch .venv/ready
fi
source .venv/bin/activate
