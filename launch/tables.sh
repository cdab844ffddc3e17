#!/usr/bin/env bash
# Makes all ten tables of the paper; --config.tables.scale=small does on a laptop:
# bash launch/tables.sh WORKDIR [--dry_run] [--config.key=value …]
# The tables share their runs, and finished runs are not made again.
needs=1
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
workdir=$(absolute "$1")
shift

# Many runs are the same program with other numbers.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$workdir/compiled}
failed=
for number in {1..10}; do
    arguments=$(quote --config="configs/tables/table$number.py" \
        --workdir="$workdir/table$number" --config.tables.runs="$workdir/runs" "$@")
    run "python -m pcm3_jax.main $arguments && cat $(quote "$workdir/table$number/results.md")" || {
        # 1 is a table that cannot be made; anything else, such as a signal, ends this, too.
        status=$?
        [ $status = 1 ] || exit $status
        failed+=" $number"
    }
done
if [ "$failed" ]; then
    echo "error: these tables could not be made:$failed; the reasons are above." >&2
    exit 1
fi
