"""Table 9 of the paper: prompts, before BatchNorm as published and after it.

python -m pcm3_jax.main --config=configs/tables/table9.py --workdir=runs/table9 \
    --config.data.dir=DIR [--config.scale=small]
"""

from ml_collections import ConfigDict

from pcm3_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.task = "table"
    config.table = 9
    return config
