"""Table 8 of the paper: positive samples and the distillation loss.

python -m pcm3_jax.main --config=configs/tables/table8.py --workdir=runs/table8 \
    --config.data.dir=DIR [--config.tables.scale=small]
"""

from pcm3_jax.config import Config, default_config


def get_config() -> Config:
    config = default_config()
    config.task = "table"
    config.tables.number = 8
    return config
