"""Table 10 of the paper: masking ratio and strategy.

python -m pcm3_jax.main --config=configs/tables/table10.py --workdir=runs/table10 \
    --config.data.dir=DIR [--config.scale=small]
"""

from ml_collections import ConfigDict

from pcm3_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.task = "table"
    config.table = 10
    return config
