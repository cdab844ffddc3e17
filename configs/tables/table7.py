"""Table 7 of the paper: the synergy of contrast and masked prediction on five downstream tasks.

python -m pcm3_jax.main --config=configs/tables/table7.py --workdir=runs/table7 \
    --config.data.dir=DIR [--config.tables.scale=small]
"""

from pcm3_jax.config import Config, default_config


def get_config() -> Config:
    config = default_config()
    config.task = "table"
    config.tables.number = 7
    return config
