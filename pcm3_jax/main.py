"""Runs the task of a configuration.

python -m pcm3_jax.main --config=configs/NAME.py --workdir=DIR [--config.key=value …] [--dry_run]
"""

from __future__ import annotations

from pcm3_jax import dry_run
from pcm3_jax.config import command_line
from pcm3_jax.registry import run

if __name__ == "__main__":
    command_line.main(run, dry_run.describe)
