"""Table 3 of the paper: action retrieval by the nearest neighbour.

python -m pcm3_jax.main --config=configs/tables/table3.py --workdir=runs/table3 \
    --config.data.dir=DIR [--config.tables.scale=small]
"""

from pcm3_jax.config import Config, default_config


def get_config() -> Config:
    config = default_config()
    config.task = "table"
    config.tables.number = 3
    return config
