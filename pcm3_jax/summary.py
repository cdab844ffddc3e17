"""`python -m pcm3_jax.summary`: see `pcm3_jax.report.summary`."""

from pcm3_jax.report.summary import run
from pcm3_jax.runtime import commands

if __name__ == "__main__":
    commands.main(run)
