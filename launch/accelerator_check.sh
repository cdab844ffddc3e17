#!/usr/bin/env bash
# Checks and times everything on one accelerator, in at most nine minutes after the installation:
# bash launch/accelerator_check.sh [--rehearse] [--wheels=DIR] [--out=DIR] [--dry_run]
# --rehearse runs all of it in a small size, on a CPU in at most three minutes.  With --wheels, for
# machines without network, the active Python's packages are used, and those that it lacks are
# installed from the wheels in DIR into build/wheels_venv, which leaves the active Python as it is.
# With network, for a Python 3.12 that has JAX, flax, optax, orbax-checkpoint, scikit-learn and pytest:
# pip download --no-deps --only-binary=:all: --python-version=3.12 --platform=manylinux_2_28_x86_64 \
#     --platform=manylinux2014_x86_64 --dest=DIR array_record dm-tree docstring_parser \
#     googleapis-common-protos grain immutabledict importlib_resources ml_collections portpicker \
#     simple-parsing tensorboardX tensorflow-datasets tensorflow-metadata termcolor toml
# pip wheel --no-deps --wheel-dir=DIR promise
for argument; do
    if [[ $argument == --wheels=* ]]; then EXTRA=none; fi
done
options="wheels"
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

if [ -n "$wheels" ] && [ -z "$dry_run" ]; then
    venv=build/wheels_venv
    # With the active Python's pip: some systems cannot install one into a venv.
    python -m venv --clear --without-pip "$venv"
    folders=$(python -c 'import sys; print([p for p in sys.path if p.endswith("-packages")])')
    own=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    echo "import site; list(map(site.addsitedir, $folders))" >"$own/active.pth"
    project='import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]'
    "$venv/bin/python" -c "$project"'["dependencies"], sep="\n")' >"$venv/needed.txt"
    # Without some of them most parts still run.
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-index \
        --find-links "$(absolute "$wheels")" --requirement "$venv/needed.txt" pytest hypothesis || true
    source "$venv/bin/activate"
fi
run "exec python -m pcm3_jax.benchmark.accelerator_check $(quote "$@")"
