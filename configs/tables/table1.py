"""Table 1 of the paper: linear evaluation of one stream and of three streams fused.

python -m pcm3_jax.main --config=configs/tables/table1.py --workdir=runs/table1 \
    --config.data.dir=DIR [--config.scale=small]
"""

from ml_collections import ConfigDict

from pcm3_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.task = "table"
    config.table = 1
    return config
