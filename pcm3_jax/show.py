"""`python -m pcm3_jax.show`: see `pcm3_jax.report.show`."""

from pcm3_jax.report.show import run
from pcm3_jax.runtime import commands

if __name__ == "__main__":
    commands.main(run)
