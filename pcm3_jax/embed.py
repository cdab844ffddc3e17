"""`python -m pcm3_jax.embed`: see `pcm3_jax.inference.embed`."""

from pcm3_jax.inference.embed import run
from pcm3_jax.runtime import commands

if __name__ == "__main__":
    commands.main(run)
