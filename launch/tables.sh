#!/usr/bin/env bash
# Makes all ten tables of the paper, or with --config.tables.scale=small a version for laptops:
# bash launch/tables.sh WORKDIR [--dry_run] [--config.key=value …]
# The tables share runs, and finished runs are reused.
needs=1
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
workdir=$(absolute "$1")
shift

# Many runs compile to the same program.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$workdir/compiled}
failed=
for number in {1..10}; do
    arguments=$(quote --config="configs/tables/table$number.py" \
        --workdir="$workdir/table$number" --config.tables.runs="$workdir/runs" "$@")
    run "python -m pcm3_jax.main $arguments && cat $(quote "$workdir/table$number/results.md")" || {
        # Exit code 1: this table cannot be made; go on with the next.  Any other code, such as that
        # of a signal, ends the script.
        status=$?
        [ $status = 1 ] || exit $status
        failed+=" $number"
    }
done
if [ "$failed" ]; then
    echo "error: these tables could not be made:$failed; the reasons are above." >&2
    exit 1
fi
