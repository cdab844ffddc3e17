"""`python -m pcm3_jax.benchmark`: see `pcm3_jax.benchmark.step`."""

from pcm3_jax.benchmark import step
from pcm3_jax.config import command_line

if __name__ == "__main__":
    # What --help prints.
    __doc__ = step.__doc__
    command_line.main(step.benchmark)
