"""Table 3 of the paper: action retrieval by the nearest neighbour.

python -m pcm3_jax.main --config=configs/tables/table3.py --workdir=runs/table3 \
    --config.data.dir=DIR [--config.scale=small]
"""

from ml_collections import ConfigDict

from pcm3_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.task = "table"
    config.table = 3
    return config
