"""Table 7 of the paper: the synergy of contrast and masked prediction on five downstream tasks.

python -m pcm3_jax.main --config=configs/tables/table7.py --workdir=runs/table7 \
    --config.data.dir=DIR [--config.scale=small]
"""

from ml_collections import ConfigDict

from pcm3_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.task = "table"
    config.table = 7
    return config
