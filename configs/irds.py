r"""PCM³ on IntelliRehabDS, real recordings, cross-subject.

python -m tfds_builders.build intellirehabds/cross_subject_centered \
    --manual_dir=DOWNLOAD --data_dir=data
bash launch/compare.sh configs/irds.py runs/irds "0 1 2" --streams="motion bone"

pretrains the two streams whose fusion is best, each for seven minutes on two CPU cores.

To make a table of the paper with this data set and these networks, here Table 3:

python -m pcm3_jax.main --config=configs/irds.py:3 --workdir=runs/irds/table3 \
    --config.tables.runs=runs/irds/runs --config.tables.seeds="(0, 1, 2)"
"""

from pcm3_jax.config import Config, default_config
from pcm3_jax.errors import UserError

# Centred on the first frame's spine.  Centring every frame and rotating skeletons upright, as for
# NTU, costs three points of linear accuracy here.
DATA = "intellirehabds/cross_subject_centered"


def get_config(table: str = "") -> Config:
    config = default_config()
    if table:
        if not table.isdecimal():
            raise UserError(f"there is no table {table!r}; use configs/irds.py:N with its number N")
        config.task, config.tables.number = "table", int(table)
        config.tables.data = (DATA,)
    config.data.name = DATA
    # Gestures differ in their motion; coordinates mainly separate seated from standing subjects.
    config.views.stream = "motion"
    config.views.frames = 32
    config.views.min_crop_frames = 16
    config.views.mask_clip_frames = 4
    config.views.mix_block_frames = 2
    config.views.crop_ratio = (0.5, 1.0)
    # A larger limit would make a forward and a sideways movement look alike.
    config.views.shear_limit = config.views.jitter_limit = 0.2
    config.model.hidden = 128
    config.model.decoder_hidden = 64
    config.model.prompt_width = 16
    # Below the number of training sequences, 1,434.
    config.method.queue_size = 1024
    config.method.key_momentum = 0.99
    # One person only; see `SMALL` in pcm3_jax/tables/scale.py.
    config.method.prompt_placement = "after_norm"
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.batch_size = 32
    config.optimizer.epochs = 26
    config.optimizer.decay_epochs = (22,)
    config.cmd.neighbours = 512
    config.linear.batch_size = 64
    config.linear.cached_crops = 8
    # There are few training subjects, so both classifiers need strong regularisation.
    config.linear.weight_decay = 0.1
    config.baseline.ridge_penalty = 10.0
    # 1 % of the labels is 14 sequences: small batches and many steps.
    config.finetune.name = "adamw"
    config.finetune.learning_rate = 1e-3
    config.finetune.batch_size = 16
    config.motion_prediction.hidden = 128
    config.motion_prediction.epochs = 20
    config.motion_prediction.decay_epochs = (15,)
    config.eval.every_epochs = 10
    config.checkpoint.every_epochs = 2
    return config
