r"""The recipes of the encoders that come with the package (docs/model_card.md).

bash launch/ready.sh runs/ready DOWNLOAD KINDER_GATOR    # all of it, with IntelliRehabDS' DOWNLOAD

or, for one stream, joint, bone or motion:

python -m tfds_builders.build synthetic_skeletons/n12000x1000 --data_dir=data
python -m tfds_builders.build synthetic_skeletons/motions_n4000 --data_dir=data
python -m pcm3_jax.main --config=configs/ready.py:joint --workdir=runs/joint

STREAM trains on generated skeletons alone.  STREAM-irds goes on from it, with the training split of
IntelliRehabDS, without labels, among the data; it is no better, and so not shipped:

python -m pcm3_jax.main --config=configs/ready.py:joint-irds --workdir=runs/joint-irds \
    --config.encoder=runs/joint
"""

from pcm3_jax.config import Config, default_config
from pcm3_jax.errors import UserError
from pcm3_jax.tables.paper import STREAM_SETTINGS
from pcm3_jax.tables.scale import SMALL

# Eighteen actions by many performers, and two thousand movement programmes.
ACTIONS, MOTIONS = "synthetic_skeletons/n12000x1000", "synthetic_skeletons/motions_n4000"
IRDS = "intellirehabds/cross_subject"


def get_config(recipe: str = "joint") -> Config:
    stream, _, corpus = recipe.partition("-")
    if stream not in STREAM_SETTINGS or corpus not in ("", "irds"):
        raise UserError(
            f"there is no recipe {recipe!r}; use STREAM or STREAM-irds with one of "
            f"{', '.join(STREAM_SETTINGS)}"
        )
    config = default_config()
    config.update_from_flattened_dict(SMALL)
    config.data.name, config.data.extra = ACTIONS, (MOTIONS,)
    config.views.stream = stream
    config.model.hidden = 96
    config.method.queue_size = 2048
    config.optimizer.epochs = 2
    config.optimizer.decay_epochs = (1,)
    # The last layer serves the contrastive loss; the others know more of other movements.
    config.eval.layers = (1, 2)
    config.eval.pooling = ("mean", "max")
    config.eval.every_epochs = 0
    config.checkpoint.every_epochs = 1
    if corpus:
        config.data.name, config.data.extra = MOTIONS, (IRDS,)
        config.optimizer.epochs = 3
        config.optimizer.decay_epochs = (2,)
    return config
