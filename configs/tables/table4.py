"""Table 4 of the paper: action recognition with spatial and temporal occlusion.

python -m pcm3_jax.main --config=configs/tables/table4.py --workdir=runs/table4 \
    --config.data.dir=DIR [--config.scale=small]
"""

from ml_collections import ConfigDict

from pcm3_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.task = "table"
    config.table = 4
    return config
