#!/usr/bin/env bash
# Checks and tests everything: bash launch/test.sh [pytest arguments]
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

ruff check .
ruff format --check .
mypy
python -m pytest --numprocesses=2 "$@"
