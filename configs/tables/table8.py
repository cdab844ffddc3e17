"""Table 8 of the paper: positive samples and the distillation loss.

python -m pcm3_jax.main --config=configs/tables/table8.py --workdir=runs/table8 \
    --config.data.dir=DIR [--config.scale=small]
"""

from ml_collections import ConfigDict

from pcm3_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.task = "table"
    config.table = 8
    return config
