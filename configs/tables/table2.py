"""Table 2 of the paper: semi-supervised action recognition with 1 % and 10 % of the labels.

python -m pcm3_jax.main --config=configs/tables/table2.py --workdir=runs/table2 \
    --config.data.dir=DIR [--config.scale=small]
"""

from ml_collections import ConfigDict

from pcm3_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.task = "table"
    config.table = 2
    return config
