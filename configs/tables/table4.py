"""Table 4 of the paper: action recognition with spatial and temporal occlusion.

python -m pcm3_jax.main --config=configs/tables/table4.py --workdir=runs/table4 \
    --config.data.dir=DIR [--config.tables.scale=small]
"""

from pcm3_jax.config import Config, default_config


def get_config() -> Config:
    config = default_config()
    config.task = "table"
    config.tables.number = 4
    return config
