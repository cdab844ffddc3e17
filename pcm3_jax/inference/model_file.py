"""A trained model as a single file: its configurations and named arrays.

The file is a safetensors file.  Arrays of a model of one encoder are named by their path, for
instance ``params/encoder/gru/layer_0/input_kernel``, and its configuration is the metadata
``config``; `pcm3_jax.inference.weights` lists the arrays.  With several encoders, the arrays of
each are below its name (``joint/params/…``), and the metadata ``encoders`` is {name:
configuration} in the order of their features.  Arrays of heads (``classifier/kernel``) have no
prefix.  Parameters may be float16; they are float32 once loaded.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pcm3_jax.errors import UserError
from pcm3_jax.inference import shipped_models
from pcm3_jax.inference.weights import (
    HEADS,
    TRAINING,
    ModelWeights,
    Weights,
    check,
    halved,
    template,
)
from pcm3_jax.methods import METHODS
from pcm3_jax.methods.state import random_encoder
from pcm3_jax.runtime.files import read_arrays, read_json, replaced
from pcm3_jax.settings import Config, Stream
from pcm3_jax.train.checkpoint import latest_checkpoint, restore_arrays
from pcm3_jax.train.provenance import pinned_encoder
from pcm3_jax.train.workdir import PROVENANCE_FILE, read_config

_FORMAT = "pcm3_jax"
# Written by a linear evaluation to its workdir.
CLASSIFIER_FILE = "classifier.npz"
# Written by tasks that train an encoder with a head; the model of pretraining is its checkpoint.
MODEL_FILE = "model.safetensors"


def load(
    place: str | os.PathLike[str], *, training: bool = False, stream: Stream | None = None
) -> ModelWeights:
    """Reads a model.

    Args:
      place: a name of `shipped_models.MODELS`, or a path: the workdir of a pretraining run (its
        last checkpoint is used), of a linear evaluation, or of a finished task that trains an
        encoder with a head; one checkpoint ``WORKDIR/checkpoints/STEP``; or a file that `save`
        wrote.  ``./base`` is a path.
      training: whether to also read the parts of `TRAINING`, if present.
      stream: of several encoders, the one to load, without heads; by default all of a file, and
        of a run that trained one encoder per stream that of ``config.views.stream``.

    Raises:
      UserError: ``place`` holds no model, or a damaged one.
    """
    if isinstance(place, str) and place in shipped_models.MODELS:
        model = _shipped(place)
    else:
        try:
            model = _at(Path(place), training, stream)
        except RecursionError:
            raise UserError(
                f"The run in {place} names itself as its encoder, at once or by others: evaluate "
                "the encoder again."
            ) from None
    return model.select(stream) if stream and len(model.encoders) > 1 else model


def save(path: Path, model: ModelWeights) -> None:
    """Writes a model to a safetensors file, atomically.

    Raises:
      UserError: the file cannot be written.
    """
    metadata = {
        "format": _FORMAT,
        "classes": json.dumps(model.classes),
        "threshold": json.dumps(model.threshold),
        "window": json.dumps(model.window),
        "persons": json.dumps(model.persons),
        "provenance": json.dumps(model.provenance),
        **{head: settings.to_json() for head, settings in model.head_settings.items()},
    }
    trees = {name: dict(weights.tree) for name, weights in model.encoders.items()}
    if model.half:
        trees = {name: halved(tree) for name, tree in trees.items()}
    if len(trees) == 1:
        (tree,) = trees.values()
        metadata["config"] = model.only.config.to_json()
    else:
        tree = trees
        configs = {name: weights.config.to_dict() for name, weights in model.encoders.items()}
        metadata["encoders"] = json.dumps(configs)
    flat = flatten_dict(tree | model.heads, sep="/")
    arrays = {name: np.asarray(array, order="C") for name, array in flat.items()}
    metadata["checksum"] = _checksum(arrays, metadata)
    with replaced(path) as partial:
        try:
            save_file(arrays, partial, metadata)
        except SafetensorError as error:  # also for a full disk, not an OSError
            raise UserError(f"{path} cannot be written ({error}).") from error


def _checksum(arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> str:
    """Of all that a file holds; safetensors itself notices no changed byte."""
    crc = zlib.crc32(json.dumps(sorted(metadata.items())).encode())
    for name, array in sorted(arrays.items()):
        crc = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), crc)
        crc = zlib.crc32(array.data, crc)
    return f"{crc:08x}"


def _shipped(name: str) -> ModelWeights:
    shipped = shipped_models.MODELS[name]
    path = shipped_models.FOLDER / shipped.file
    try:
        model = _at(path, False, shipped.stream)
    except UserError as error:
        raise UserError(
            f"The model {name!r} of this installation cannot be read; install pcm3_jax again "
            f"({str(error).rstrip('.')})."
        ) from error
    if shipped.stream:
        return model.select(shipped.stream)
    return model if shipped.heads else ModelWeights(
        model.encoders,
        provenance={n: made for n, made in model.provenance.items() if n in model.encoders},
        half=model.half,
    )  # fmt: skip


def _at(path: Path, training: bool, stream: Stream | None) -> ModelWeights:
    if not path.exists():
        raise UserError(
            f"There is no {path}: name a workdir, a checkpoint, a safetensors file, or one of the "
            f"models {', '.join(shipped_models.available()) or '(none is installed)'}."
        )
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
    while True:
        latest = latest_checkpoint(path)
        if latest is None:
            raise UserError(
                f"The run in {path}, of task {config.task!r}, has not saved a model: name the "
                "workdir of a pretraining run with a checkpoint or of a finished linear evaluation."
            )
        try:
            return _of_run(config, latest, training, stream)
        except UserError:
            # A run that goes on may have deleted it meanwhile, for a later one.
            if latest.exists():
                raise


def _read(path: Path) -> ModelWeights:
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise UserError(
                    f"{path} is a safetensors file of another format; write one with `python -m "
                    "pcm3_jax.convert export` or `from_torch`."
                )
            flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        checksum = metadata.pop("checksum", None)  # files of older versions have none
        if checksum not in (None, _checksum(flat, metadata)):
            raise UserError(f"{path} is damaged: its checksum is wrong; copy or export it again.")
        # Deeper names than any network has would exhaust the stack.
        if deep := next((name for name in flat if name.count("/") > 16), None):
            raise ValueError(f"it has an array {deep[:40]!r}…")
        half = any(array.dtype == np.float16 for array in flat.values())
        tree = unflatten_dict(
            {n: a.astype(np.float32) if a.dtype == np.float16 else a for n, a in flat.items()},
            sep="/",
        )
        heads = {head: tree.pop(head) for head in ("classifier", *HEADS) if head in tree}
        model = ModelWeights(
            _encoders(metadata, tree),
            heads,
            head_settings={
                head: kind.settings.from_dict(json.loads(metadata[head]))
                for head, kind in HEADS.items()
                if head in metadata
            },
            classes=tuple(map(str, json.loads(metadata["classes"]))),
            threshold=float(json.loads(metadata.get("threshold", "0"))),
            window=int(json.loads(metadata.get("window", "0"))),
            persons=int(json.loads(metadata.get("persons", "0"))),
            provenance=dict(json.loads(metadata.get("provenance", "{}"))),
            half=half,
        )
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}.") from error
    except SafetensorError as error:
        if _begins_as_safetensors(path):
            raise UserError(
                f"{path} is truncated, or damaged otherwise ({error}): copy or download it again."
            ) from error
        raise UserError(
            f"{path} is not a safetensors file ({error}); a PyTorch checkpoint must first go "
            "through `python -m pcm3_jax.convert from_torch`."
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}).") from error
    return check(model, str(path))


def _begins_as_safetensors(path: Path) -> bool:
    """Whether there is JSON after the eight bytes of its length."""
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{"


def _encoders(metadata: dict[str, str], tree: dict[str, Any]) -> dict[str, Weights]:
    """The encoders of a file's metadata and arrays; raises ValueError or KeyError."""
    if "encoders" not in metadata:
        config = Config.from_dict(json.loads(metadata["config"]))
        return {config.views.stream: Weights(config, tree)}
    configs = json.loads(metadata["encoders"])
    if unknown := sorted(tree.keys() - configs.keys()):
        raise ValueError(f"{ascii(unknown[0])[:80]} is unknown")
    return {name: Weights(Config.from_dict(config), tree[name]) for name, config in configs.items()}


def _of_run(config: Config, path: Path, training: bool, stream: Stream | None) -> ModelWeights:
    method = METHODS.get(config.method.name)
    if method is None:
        raise UserError(f"{path} was trained with an unknown method, {config.method.name!r}.")
    if method.every_stream and stream:
        config.views.stream = stream
    wanted = method.loadable(template(config))
    if not training:
        wanted = {name: part for name, part in wanted.items() if name not in TRAINING}
    tree = method.encoder_of(restore_arrays(path, wanted), config)
    provenance = {config.views.stream: _provenance(config, path)}
    return check(
        ModelWeights.of(Weights(config, tree), provenance=provenance), f"Checkpoint {path}"
    )


def _provenance(config: Config, checkpoint: Path) -> dict[str, Any]:
    """Data, steps and program of a pretraining run."""
    try:
        *_, last = read_json(checkpoint.parents[1] / PROVENANCE_FILE, list, "")
        program = {key: last[key] for key in ("version", "commit")}
    except (OSError, UserError, ValueError, KeyError, TypeError):  # it only informs
        program = {}
    return {"data": config.data.name, "steps": int(checkpoint.name), **program}


def _of_evaluation(workdir: Path, config: Config) -> ModelWeights:
    path = workdir / CLASSIFIER_FILE
    file = read_arrays(
        path,
        ("kernel", "bias", "classes"),
        "run its command again",
        optional=("window", "persons"),  # files of older versions lack them
    )
    classes = tuple(map(str, file.pop("classes")))
    trained_on = {name: int(file.pop(name)) for name in ("window", "persons") if name in file}
    provenance = {}
    if config.encoder:
        model = load(pinned_encoder(workdir, config), stream=config.views.stream)
        encoder, provenance = model.only, model.provenance
        # Prepare inputs as in the classifier's training, not as in the encoder's: data may differ.
        encoder.config.data, encoder.config.views = config.data, config.views
        encoder.config.eval = config.eval
        # The classifier was trained on features that are not whitened.
        encoder.tree.pop("whitening", None)
    else:
        encoder = Weights(config, jax.tree.map(np.asarray, random_encoder(config)))
    heads = {"classifier": file}
    return check(
        ModelWeights.of(encoder, heads=heads, classes=classes, provenance=provenance, **trained_on),
        str(workdir),
    )
