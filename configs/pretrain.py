"""PCM³ pretraining with every number of the paper (§4.2) on the joint stream.

python -m pcm3_jax.main --config=configs/pretrain.py --workdir=runs/pcm3 \
    --config.data.name=DATA_SET --config.data.dir=DIR

The authors' program trains the bone and motion streams without prompts and without the
distillation: add --config.views.stream=bone --config.method.domain_prompts=False
--config.method.task_prompts=False --config.method.kl_weight=0.0
--config.method.contrast_guides_decoder=False.
"""

from ml_collections import ConfigDict

from pcm3_jax.config import default_config


def get_config() -> ConfigDict:
    return default_config()
