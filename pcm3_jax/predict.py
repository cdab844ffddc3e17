"""`python -m pcm3_jax.predict`: see `pcm3_jax.inference.predict`."""

from pcm3_jax.inference.predict import run
from pcm3_jax.runtime import commands

if __name__ == "__main__":
    commands.main(run)
