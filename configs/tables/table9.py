"""Table 9 of the paper: prompts, before BatchNorm as published and after it.

python -m pcm3_jax.main --config=configs/tables/table9.py --workdir=runs/table9 \
    --config.data.dir=DIR [--config.tables.scale=small]
"""

from pcm3_jax.config import Config, default_config


def get_config() -> Config:
    config = default_config()
    config.task = "table"
    config.tables.number = 9
    return config
