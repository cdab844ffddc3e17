"""`python -m pcm3_jax.benchmark`: see `pcm3_jax.benchmark.step`."""

from pcm3_jax.benchmark.step import benchmark
from pcm3_jax.config import command_line

if __name__ == "__main__":
    command_line.main(benchmark)
