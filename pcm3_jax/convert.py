"""`python -m pcm3_jax.convert`: see `pcm3_jax.inference.convert`."""

from pcm3_jax.inference.convert import run
from pcm3_jax.runtime import commands

if __name__ == "__main__":
    commands.main(run)
