r"""The recipes of the encoders that come with the package (docs/model_card.md).

bash launch/ready.sh runs/ready DOWNLOAD    # all of it, with DOWNLOAD of IntelliRehabDS

or, for one stream, joint, bone or motion:

python -m tfds_builders.build synthetic_skeletons/motions_n24000 --data_dir=data
python -m pcm3_jax.main --config=configs/ready.py:joint-generated --workdir=runs/joint-generated
python -m pcm3_jax.main --config=configs/ready.py:joint --workdir=runs/joint \
    --config.encoder=runs/joint-generated

STREAM-generated trains on generated skeletons alone.  STREAM goes on from it for a shorter time,
with the training split of IntelliRehabDS, without labels, among the data.
"""

from pcm3_jax.config import Config, default_config
from pcm3_jax.errors import UserError
from pcm3_jax.tables.paper import STREAM_SETTINGS
from pcm3_jax.tables.scale import SMALL

GENERATED = "synthetic_skeletons/motions_n24000"
IRDS = "intellirehabds/cross_subject"


def get_config(recipe: str = "joint") -> Config:
    stream, _, corpus = recipe.partition("-")
    if stream not in STREAM_SETTINGS or corpus not in ("", "generated"):
        raise UserError(
            f"there is no recipe {recipe!r}; use STREAM or STREAM-generated with one of "
            f"{', '.join(STREAM_SETTINGS)}"
        )
    config = default_config()
    config.update_from_flattened_dict(SMALL)
    config.data.name = GENERATED
    config.views.stream = stream
    config.views.shear_limit = 0.3
    config.views.jitter_limit = 0.5
    config.model.hidden = 128
    config.method.queue_size = 4096
    config.eval.pooling = ("last", "mean", "max")
    config.eval.every_epochs = 0
    config.checkpoint.every_epochs = 1
    config.optimizer.epochs = 5
    config.optimizer.decay_epochs = (4,)
    if not corpus:
        config.data.name = "synthetic_skeletons/motions_n4000"
        config.data.extra = (IRDS,)
        config.optimizer.epochs = 4
        config.optimizer.decay_epochs = (3,)
    return config
