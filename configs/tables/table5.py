"""Table 5 of the paper: action detection in untrimmed videos.

python -m pcm3_jax.main --config=configs/tables/table5.py --workdir=runs/table5 \
    --config.data.dir=DIR [--config.scale=small]
"""

from ml_collections import ConfigDict

from pcm3_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.task = "table"
    config.table = 5
    return config
