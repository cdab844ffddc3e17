"""Table 10 of the paper: masking ratio and strategy.

python -m pcm3_jax.main --config=configs/tables/table10.py --workdir=runs/table10 \
    --config.data.dir=DIR [--config.tables.scale=small]
"""

from pcm3_jax.config import Config, default_config


def get_config() -> Config:
    config = default_config()
    config.task = "table"
    config.tables.number = 10
    return config
