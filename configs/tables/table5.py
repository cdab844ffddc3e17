"""Table 5 of the paper: action detection in untrimmed videos.

python -m pcm3_jax.main --config=configs/tables/table5.py --workdir=runs/table5 \
    --config.data.dir=DIR [--config.tables.scale=small]
"""

from pcm3_jax.config import Config, default_config


def get_config() -> Config:
    config = default_config()
    config.task = "table"
    config.tables.number = 5
    return config
