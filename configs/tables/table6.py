"""Table 6 of the paper: motion prediction.

python -m pcm3_jax.main --config=configs/tables/table6.py --workdir=runs/table6 \
    --config.data.dir=DIR [--config.scale=small]
"""

from ml_collections import ConfigDict

from pcm3_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.task = "table"
    config.table = 6
    return config
