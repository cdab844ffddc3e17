"""PyTorch's checkpoint files as named NumPy arrays, read and written without PyTorch.

A file of today is a zip archive: ``NAME/data.pkl`` describes the tensors, and each storage's
bytes are the member ``NAME/data/KEY``.  An old one is a row of pickles followed by the storages.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pcm3_jax.errors import UserError
from pcm3_jax.inference import torch_pickle
from pcm3_jax.inference.torch_pickle import Refused, Storage, Tensor

_OLD_MAGIC = 0x1950A86A20F9469CFC6C
# Under which name programs save the tensors, where they save something else besides.
_STATE_KEYS = ("state_dict", "model_state_dict", "model")
# Any date will do, as long as the same tensors give the same bytes.
_DATE = (1980, 1, 1, 0, 0, 0)
_STORAGE_NAMES = {np.dtype(np.float32): "FloatStorage", np.dtype(np.int64): "LongStorage"}


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint, by name, without the prefix ``module.``.

    Nothing in the file is executed.

    Raises:
      UserError: it is damaged, or holds something else than tensors.
    """
    try:
        with open(path, "rb") as file:
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as archive:
                    return _arrays(*_read_zip(archive, path.stat().st_size))
            file.seek(0)
            return _arrays(*_read_old(file, path.stat().st_size))
    except Refused as refusal:
        raise UserError(f"{path} is not taken: {refusal}; save its state_dict anew.") from refusal
    # Archives and shapes can be wrong in ways that raise any of these.
    except (
        OSError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError, OverflowError
    ) as error:  # fmt: skip
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(f"{path} cannot be read as a PyTorch checkpoint: {reason}.") from error


def _read_zip(archive: zipfile.ZipFile, size: int) -> tuple[Any, Callable[[Storage], bytes], str]:
    # PyTorch does not compress; what does, or what overlaps, could unfold to any size.
    if sum(entry.file_size for entry in archive.infolist()) > size:
        raise Refused("its parts are larger than the file, and PyTorch does not compress")
    pickles = [name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"]]
    if len(pickles) != 1:
        raise Refused("the archive has no data.pkl, as PyTorch's have")
    folder = pickles[0].removesuffix("data.pkl")

    def member(name: str) -> bytes:
        try:
            return archive.read(folder + name)
        except KeyError:
            raise Refused(f"the archive lacks {ascii(folder + name)[:60]}") from None

    has_order = f"{folder}byteorder" in archive.namelist()
    order = ">" if has_order and member("byteorder") == b"big" else "<"
    value = torch_pickle.read(io.BytesIO(member("data.pkl")))
    return value, lambda storage: member(f"data/{storage.key}"), order


def _read_old(file: BinaryIO, size: int) -> tuple[Any, Callable[[Storage], bytes], str]:
    if torch_pickle.read(file) != _OLD_MAGIC:
        raise Refused("it is no PyTorch checkpoint")
    torch_pickle.read(file)  # the protocol's version
    system = torch_pickle.read(file)
    order = "<" if not isinstance(system, dict) or system.get("little_endian", True) else ">"
    storages: dict[str, Storage] = {}
    value = torch_pickle.read(file, storages)
    keys = torch_pickle.read(file)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise Refused("it has no list of its storages")
    places = {}
    for key in keys:
        head = file.read(8)
        if len(head) < 8 or key not in storages:
            raise Refused("it ends too early")
        length = struct.unpack(f"{order}q", head)[0] * _width(storages[key])
        if not 0 <= length <= size - file.tell():
            raise Refused("it ends too early")
        places[key] = (file.tell(), length)
        file.seek(length, io.SEEK_CUR)

    def content(storage: Storage) -> bytes:
        start, length = places.get(storage.key, (0, 0))
        file.seek(start)
        return file.read(length)

    return value, content, order


def _arrays(value: Any, content: Callable[[Storage], bytes], order: str) -> dict[str, np.ndarray]:
    storages: dict[Storage, np.ndarray] = {}
    arrays = {}
    for name, tensor in _tensors(value):
        storage = tensor.storage
        if storage not in storages:
            storages[storage] = _numbers(content(storage), storage, order)
        arrays[name.removeprefix("module.")] = _view(storages[storage], tensor, name)
    if not arrays:
        raise Refused("it holds no named tensors")
    return arrays


def _tensors(value: Any) -> list[tuple[str, Tensor]]:
    for key in _STATE_KEYS:
        if isinstance(value, dict) and isinstance(value.get(key), dict):
            value = value[key]
    if not isinstance(value, dict):
        raise Refused("it holds no dictionary of tensors")
    items = value.items()
    return [(k, v) for k, v in items if isinstance(k, str) and isinstance(v, Tensor)]


def _width(storage: Storage) -> int:
    return 2 if storage.dtype == "bfloat16" else np.dtype(storage.dtype).itemsize


def _numbers(content: bytes, storage: Storage, order: str) -> np.ndarray:
    if len(content) != storage.count * _width(storage):
        raise Refused(
            f"storage {ascii(storage.key)[:30]} has {len(content)} bytes where "
            f"{storage.count * _width(storage)} were announced"
        )
    if storage.dtype == "bfloat16":
        # The upper half of a float32.
        return (np.frombuffer(content, f"{order}u2").astype(np.uint32) << 16).view(np.float32)
    numbers = np.frombuffer(content, f"{order}{storage.dtype}")
    return numbers.astype(numbers.dtype.newbyteorder("="), copy=False)


def _view(numbers: np.ndarray, tensor: Tensor, name: str) -> np.ndarray:
    size = int(np.prod(tensor.shape, dtype=object))
    steps = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
    # No larger than its storage, so that nothing small unfolds to something huge.
    if size > len(numbers) or (size and tensor.offset + steps >= len(numbers)):
        raise Refused(f"tensor {ascii(name)[:60]} reaches beyond its storage")
    if not size:
        return np.zeros(tensor.shape, numbers.dtype)
    # The stride of an axis of length one is never used, and can be any number.
    strides = [
        s * numbers.itemsize * (n > 1) for n, s in zip(tensor.shape, tensor.strides, strict=True)
    ]
    return np.lib.stride_tricks.as_strided(
        numbers[tensor.offset :], tensor.shape, strides, writeable=False
    )


def write(path: Path, tensors: Mapping[str, np.ndarray], epoch: int) -> None:
    """Writes ``{"epoch": …, "state_dict": …}`` as `torch.save` does.

    Args:
      path: a file that does not matter if this fails.
      tensors: float32 or int64 arrays by name.
      epoch: how many the training has seen.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo("model/data.pkl", _DATE), _pickle(tensors, epoch))
        for name, text in (("byteorder", "little"), ("version", "3\n")):
            archive.writestr(zipfile.ZipInfo(f"model/{name}", _DATE), text)
        for key, array in enumerate(tensors.values()):
            content = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
            archive.writestr(zipfile.ZipInfo(f"model/data/{key}", _DATE), content)


def _pickle(tensors: Mapping[str, np.ndarray], epoch: int) -> bytes:
    """The description of the tensors, in the instructions of pickle's protocol 2."""
    items = b"".join(
        _text(name) + _tensor(str(key), array) for key, (name, array) in enumerate(tensors.items())
    )
    state = b"ccollections\nOrderedDict\n)R(" + items + b"u"
    return b"\x80\x02}(" + _text("epoch") + _integer(epoch) + _text("state_dict") + state + b"u."


def _tensor(key: str, array: np.ndarray) -> bytes:
    kind = b"ctorch\n" + _STORAGE_NAMES[array.dtype].encode() + b"\n"
    storage = _text("storage") + kind + _text(key) + _text("cpu") + _integer(array.size)
    shape = b"".join(map(_integer, array.shape))
    strides, step = b"", 1
    for length in reversed(array.shape):
        strides = _integer(step) + strides
        step *= length
    layout = _integer(0) + b"(" + shape + b"t(" + strides + b"t"
    # No gradient, no hooks.
    no_more = b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n((" + storage + b"tQ" + layout + no_more + b"tR"


def _text(text: str) -> bytes:
    content = text.encode()
    return b"X" + struct.pack("<I", len(content)) + content


def _integer(number: int) -> bytes:
    return b"J" + struct.pack("<i", number)
