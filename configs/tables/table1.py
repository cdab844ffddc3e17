"""Table 1 of the paper: linear evaluation of one stream and of three streams fused.

python -m pcm3_jax.main --config=configs/tables/table1.py --workdir=runs/table1 \
    --config.data.dir=DIR [--config.tables.scale=small]
"""

from pcm3_jax.config import Config, default_config


def get_config() -> Config:
    config = default_config()
    config.task = "table"
    config.tables.number = 1
    return config
