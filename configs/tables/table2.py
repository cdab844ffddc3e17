"""Table 2 of the paper: semi-supervised action recognition with 1 % and 10 % of the labels.

python -m pcm3_jax.main --config=configs/tables/table2.py --workdir=runs/table2 \
    --config.data.dir=DIR [--config.tables.scale=small]
"""

from pcm3_jax.config import Config, default_config


def get_config() -> Config:
    config = default_config()
    config.task = "table"
    config.tables.number = 2
    return config
