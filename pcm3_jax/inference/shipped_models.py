"""The trained models that come with the package, by name."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from pcm3_jax.settings import Stream

FOLDER = Path(__file__).parent / "shipped"


class Shipped(NamedTuple):
    """A model of the package.

    Attributes:
      file: in `FOLDER`.
      about: one line.
      stream: the stream of the one encoder that is loaded; None for all of the file.
      heads: whether the file's heads are loaded, too.
      layouts: joint layouts that the encoders were trained for.
    """

    file: str
    about: str
    stream: Stream | None = None
    heads: bool = False
    layouts: tuple[str, ...] = ("kinect_v2_25", "kinect_v1_20", "coco_17", "smpl_24")


# `irds` has the same encoders as `base`, and so is the same file.
MODELS = {
    "base": Shipped("base.safetensors", "three streams (joint, bone, motion): the best features"),
    "base-motion": Shipped(
        "base.safetensors", "the motion stream of base alone: a third of the work", "motion"
    ),
    "irds": Shipped(
        "base.safetensors", "base with a classifier of IntelliRehabDS' nine gestures", heads=True
    ),
}


def available() -> dict[str, str]:
    """The models that `pcm3_jax.load` knows by name: {name: one line about it}."""
    return {name: model.about for name, model in MODELS.items() if (FOLDER / model.file).exists()}


def layout_note(name: str, layout: str | None) -> str | None:
    """A sentence for users whose skeletons have other joints than a model's training data.

    Args:
      name: of a model of the package, or any path.
      layout: a name of `data.joint_layouts.LAYOUTS`; None for Kinect v2's joints.
    """
    model = MODELS.get(name)
    if model is None or layout is None or layout in model.layouts:
        return None
    return (
        f"{name} was trained on the joints of {' and '.join(model.layouts)}, not on those of "
        f"{layout}, so expect less of it."
    )
