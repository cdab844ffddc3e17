"""A trained model as a single file: its configuration and named arrays.

The file is a safetensors file with the configuration in its metadata.  Arrays are named by their
path, for instance ``params/encoder/gru/layer_0/input_kernel``; `pcm3_jax.inference.weights` lists
them.
"""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pcm3_jax.errors import UserError
from pcm3_jax.inference.weights import HEADS, TRAINING, Weights, check, template
from pcm3_jax.methods import METHODS
from pcm3_jax.methods.state import random_encoder
from pcm3_jax.runtime.files import replaced
from pcm3_jax.settings import Config, Stream
from pcm3_jax.train.checkpoint import latest_checkpoint, restore_arrays
from pcm3_jax.train.workdir import read_config

_FORMAT = "pcm3_jax"
# Written by a linear evaluation to its workdir.
CLASSIFIER_FILE = "classifier.npz"
# Written by tasks that train an encoder with a head; the model of pretraining is its checkpoint.
MODEL_FILE = "model.safetensors"


def load(path: Path, *, training: bool = False, stream: Stream | None = None) -> Weights:
    """Reads a model.

    Args:
      path: the workdir of a pretraining run (its last checkpoint is used), of a linear
        evaluation, or of a finished task that trains an encoder with a head; one checkpoint
        ``WORKDIR/checkpoints/STEP``; or a file that `save` wrote.
      training: whether to also read the parts of `TRAINING`, if present.
      stream: for a run that trained one encoder per stream, the one to load; by default
        ``config.views.stream``.

    Raises:
      UserError: ``path`` holds no model, or a damaged one.
    """
    if not path.exists():
        raise UserError(f"There is no {path}: name a workdir, a checkpoint or a safetensors file.")
    if path.is_file():
        return _read(path)
    if path.parent.name == "checkpoints" and path.name.isdigit():
        run = path.parent.parent
        return _of_run(read_config(run, Config), path.absolute(), training, stream)
    config = read_config(path, Config)
    if config.task != "pretrain" and (path / MODEL_FILE).exists():
        return _read(path / MODEL_FILE)
    if (path / CLASSIFIER_FILE).exists():
        return _of_evaluation(path, config)
    latest = latest_checkpoint(path)
    if latest is None:
        raise UserError(
            f"The run in {path}, of task {config.task!r}, has not saved a model: name the "
            "workdir of a pretraining run with a checkpoint or of a finished linear evaluation."
        )
    return _of_run(config, latest, training, stream)


def save(path: Path, weights: Weights) -> None:
    """Writes a model to a safetensors file, atomically.

    Raises:
      UserError: the file cannot be written.
    """
    flat = flatten_dict(weights.tree, sep="/")
    metadata = {
        "format": _FORMAT,
        "config": weights.config.to_json(),
        "classes": json.dumps(weights.classes),
        **{head: settings.to_json() for head, settings in weights.heads.items()},
    }
    arrays = {name: np.asarray(array, order="C") for name, array in flat.items()}
    with replaced(path) as partial:
        try:
            save_file(arrays, partial, metadata)
        except SafetensorError as error:  # also for a full disk, not an OSError
            raise UserError(f"{path} cannot be written ({error}).") from error


def _read(path: Path) -> Weights:
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise UserError(
                    f"{path} is a safetensors file of another format; write one with `python -m "
                    "pcm3_jax.convert export` or `from_torch`."
                )
            flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        tree = unflatten_dict(flat, sep="/")
        config = Config.from_dict(json.loads(metadata["config"]))
        classes = tuple(map(str, json.loads(metadata["classes"])))
        heads = {
            head: kind.settings.from_dict(json.loads(metadata[head]))
            for head, kind in HEADS.items()
            if head in metadata
        }
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is not a safetensors file ({error}); a PyTorch checkpoint must first go "
            "through `python -m pcm3_jax.convert from_torch`."
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}).") from error
    return check(Weights(config, tree, classes, heads), str(path))


def _of_run(config: Config, path: Path, training: bool, stream: Stream | None) -> Weights:
    method = METHODS.get(config.method.name)
    if method is None:
        raise UserError(f"{path} was trained with an unknown method, {config.method.name!r}.")
    if method.every_stream and stream:
        config.views.stream = stream
    wanted = method.loadable(template(config))
    if not training:
        wanted = {name: part for name, part in wanted.items() if name not in TRAINING}
    tree = method.encoder_of(restore_arrays(path, wanted), config)
    return check(Weights(config, tree), f"Checkpoint {path}")


def _of_evaluation(workdir: Path, config: Config) -> Weights:
    path = workdir / CLASSIFIER_FILE
    try:
        with np.load(path, allow_pickle=False) as file:
            classifier = {name: file[name] for name in ("kernel", "bias")}
            classes = tuple(map(str, file["classes"]))
    except Exception as error:  # a damaged archive can raise any exception
        raise UserError(f"{path} is damaged ({error}): run its command again.") from error
    if config.encoder:
        encoder = load(Path(config.encoder), stream=config.views.stream)
        # Prepare inputs as in the classifier's training, not as in the encoder's: data may differ.
        encoder.config.data, encoder.config.views = config.data, config.views
        # Without the heads of an encoder that was finetuned.
        kept = encoder.tree.keys() - HEADS.keys()
        config, tree = encoder.config, {part: encoder.tree[part] for part in kept}
    else:
        tree = jax.tree.map(np.asarray, random_encoder(config))
    return check(Weights(config, tree | {"classifier": classifier}, classes), str(workdir))
