"""Table 6 of the paper: motion prediction.

python -m pcm3_jax.main --config=configs/tables/table6.py --workdir=runs/table6 \
    --config.data.dir=DIR [--config.tables.scale=small]
"""

from pcm3_jax.config import Config, default_config


def get_config() -> Config:
    config = default_config()
    config.task = "table"
    config.tables.number = 6
    return config
