"""`python -m pcm3_jax.fit`: see `pcm3_jax.inference.fit`."""

from pcm3_jax.inference.fit import run
from pcm3_jax.runtime import commands

if __name__ == "__main__":
    commands.main(run)
