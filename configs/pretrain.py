"""PCM³ pretraining with all values of the paper (§4.2), for one benchmark and one stream.

python -m tfds_builders.build ntu_rgbd/ntu60_xsub --manual_dir=DOWNLOAD --data_dir=data
python -m pcm3_jax.main --config=configs/pretrain.py:ntu60_xsub --workdir=runs/ntu60_xsub
python -m pcm3_jax.main --config=configs/pretrain.py:ntu60_xsub-bone --workdir=runs/bone

The configuration is BENCHMARK[@FORM][-STREAM]: BENCHMARK is a key of `BENCHMARKS`, STREAM is joint
(the default), bone or motion.  With @authors, @ctrgcn or @pyskl the data set is the one built from
arrays in that form (tfds_builders/ntu_rgbd/README.md).  As in the authors' program, the bone and
motion streams are trained without prompts and without distillation.
"""

from pcm3_jax.config import Config, default_config
from pcm3_jax.errors import UserError
from pcm3_jax.tables.paper import STREAM_SETTINGS

BENCHMARKS = {
    "ntu60_xsub": "ntu_rgbd/ntu60_xsub",
    "ntu60_xview": "ntu_rgbd/ntu60_xview",
    "ntu120_xsub": "ntu_rgbd/ntu120_xsub",
    "ntu120_xset": "ntu_rgbd/ntu120_xset",
    "pku2_xsub": "pku_mmd/part2_xsub",
}


def get_config(recipe: str | None = None) -> Config:
    """Recipe BENCHMARK[@FORM][-STREAM]; None uses the joint stream of the generated data set."""
    config = default_config()
    if recipe is None:
        return config
    name, _, stream = recipe.partition("-")
    benchmark, at, form = name.partition("@")
    if benchmark not in BENCHMARKS or (stream or "joint") not in STREAM_SETTINGS:
        raise UserError(
            f"there is no recipe {recipe!r}; use BENCHMARK[@FORM][-STREAM] with one of "
            f"{', '.join(BENCHMARKS)} and one of {', '.join(STREAM_SETTINGS)}"
        )
    config.data.name = f"{BENCHMARKS[benchmark]}{at}{form}"
    config.views.stream = stream or "joint"
    config.update_from_flattened_dict(STREAM_SETTINGS[config.views.stream])
    return config
