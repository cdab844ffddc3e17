"""PyTorch's checkpoint files as named NumPy arrays, read and written without PyTorch.

Since PyTorch 1.6 a checkpoint is a zip archive: ``NAME/data.pkl`` describes the tensors, and
``NAME/data/KEY`` holds the bytes of one storage.  Older files are a sequence of pickles followed
by the storages.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NamedTuple

import numpy as np

from pcm3_jax.data.formats import pickles
from pcm3_jax.data.formats.pickles import IGNORED, Name, Refused, StringKeyDict, expect
from pcm3_jax.errors import UserError
from pcm3_jax.runtime.files import opened

_OLD_MAGIC = 0x1950A86A20F9469CFC6C
# The number is the first thing in a file, after the instructions of any pickle protocol.
_OLD_START = _OLD_MAGIC.to_bytes(10, "little")
_START = 32
# Keys under which programs save the tensors if they save other objects, too.
_STATE_KEYS = ("state_dict", "model_state_dict", "model")
# A fixed date, so that the same tensors give the same bytes.
_DATE = (1980, 1, 1, 0, 0, 0)
# Each byte of a pickle can take 100 bytes of memory when loaded; 32 MiB describe 160,000 tensors.
_LARGEST_PICKLE = 2**25
# Largest allowed ratio of the tensors' total size to the file's size.  Tensors that share a storage
# are copied separately, so without a limit a small file could fill the memory.
_MOST_SHARING = 8
_MOST_AXES = 64  # of a NumPy array

_STORAGES = {
    "torch.FloatStorage": "f4",
    "torch.DoubleStorage": "f8",
    "torch.HalfStorage": "f2",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "i8",
    "torch.IntStorage": "i4",
    "torch.ShortStorage": "i2",
    "torch.CharStorage": "i1",
    "torch.ByteStorage": "u1",
    "torch.BoolStorage": "b1",
}
_DICT = "collections.OrderedDict"
_TENSOR = "torch._utils._rebuild_tensor_v2"
_OLD_TENSOR = "torch._utils._rebuild_tensor"
_PARAMETER = "torch._utils._rebuild_parameter"
_NAMES = {_DICT, _TENSOR, _OLD_TENSOR, _PARAMETER, *_STORAGES}
_NUMBERS = (
    "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 "
    "complex64 complex128"
)
# Types that programs save besides tensors: settings, schedules, statistics, random states.
_IGNORED_NAMES = {
    f"{module}.{name}"
    for module, names in {
        "argparse": "Namespace",
        "builtins": "bool bytearray bytes complex dict float frozenset int list object range set "
        "slice str tuple Ellipsis "
        "long unicode xrange",  # int, str and range, in protocol 2
        "_codecs": "encode",  # bytes, in protocol 2
        "collections": "ChainMap Counter defaultdict deque",
        "datetime": "date datetime time timedelta timezone",
        "decimal": "Decimal",
        "fractions": "Fraction",
        "pathlib": "Path PosixPath WindowsPath PurePath PurePosixPath PureWindowsPath",
        "types": "SimpleNamespace",
        "uuid": "UUID",
        "numpy": f"dtype ndarray bool_ {_NUMBERS}",
        "numpy.core.multiarray": "_reconstruct scalar",
        "torch": f"Size device bfloat16 {_NUMBERS}",
        "torch.serialization": "_get_layout",
    }.items()
    for name in names.split()
}
# Modules that have, or had, another name in some versions of Python and NumPy.
_MODULES = {"__builtin__": "builtins", "numpy._core.multiarray": "numpy.core.multiarray"}


class _Damaged(Refused):
    """The file is cut, or bytes of it have changed."""


class _Foreign(Refused):
    """The file is another program's."""


_ADVICE = {
    Refused: "save only its state_dict",
    _Damaged: "copy or download it again",
    _Foreign: "pass a file that torch.save wrote, unpacked, or download it again",
}


class Storage(NamedTuple):
    """A flat array in the file: dtype (a value of `_STORAGES`), key, and number of elements."""

    dtype: str
    key: str
    count: int  # type: ignore[assignment]  # hides tuple.count


class Tensor(NamedTuple):
    """A tensor as a view of a storage; offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Unpickler(pickles.Unpickler):
    """Reads a pickle in which every class and function is a `Name` or `IGNORED`."""

    def __init__(self, stream: BinaryIO, storages: dict[str, Storage]) -> None:
        super().__init__(stream)
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        full = f"{_MODULES.get(module, module)}.{name}"
        if full in _IGNORED_NAMES:
            return IGNORED
        if full not in _NAMES:
            raise Refused(f"its pickle refers to {ascii(full)[:60]}, which no checkpoint needs")
        return Name(full)

    def persistent_load(self, pid: Any) -> Storage:
        kind, storage_type, key, _, count = expect(pid, tuple)[:5]
        if kind != "storage" or not _is_size(count):
            raise ValueError("not a storage")
        storage = Storage(_STORAGES[expect(storage_type, Name)], expect(key, str), count)
        self._storages[storage.key] = storage
        return storage

    def call(self, function: Any, arguments: tuple) -> Any:
        return _call(function, arguments)


def _call(function: Any, arguments: tuple) -> Any:
    """A stand-in for the result of a call in a pickle."""
    if function is IGNORED:
        return IGNORED
    expect(function, Name)
    if function == _DICT:
        made = StringKeyDict()
        # Python 2's pickles pass a list of items.  It is cleared after use: otherwise a small file
        # could fill the memory with copies of one list.
        (items,) = arguments or ([],)
        for key, value in expect(items, list):
            made[key] = value
        items.clear()
        return made
    if function in (_TENSOR, _OLD_TENSOR):
        storage, offset, shape, strides = arguments[:4]
        if not len(expect(shape, tuple)) == len(expect(strides, tuple)) <= _MOST_AXES:
            raise ValueError("not a tensor's shape")
        if not all(map(_is_size, (offset, *shape, *strides))):
            raise ValueError("not a tensor's shape")
        return Tensor(expect(storage, Storage), offset, shape, strides)
    if function == _PARAMETER:
        return expect(arguments[0], Tensor)
    raise TypeError("a storage's type cannot be called")


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _unpickled(stream: BinaryIO, storages: dict[str, Storage]) -> Any:
    """The value of the pickle at the stream's position, which moves past it.

    Args:
      stream: not longer than `_LARGEST_PICKLE`.
      storages: receives every storage of the pickle, by key.

    Returns:
      Numbers, strings, tuples, lists, dictionaries, `Tensor`s and objects to ignore.

    Raises:
      Refused: the pickle holds other objects, or is damaged.
    """
    try:
        return _Unpickler(stream, storages).load()
    except Refused:
        raise
    # A malformed pickle can make the unpickler raise anything.
    except Exception as error:
        raise _Damaged(f"its pickle is cut or damaged ({type(error).__name__})") from error


def read(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint, by name.

    Nothing in the file is executed.

    Raises:
      UserError: it is damaged, or holds classes or functions that no checkpoint needs.
    """
    try:
        file = opened(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    with file:
        try:
            return _arrays(*_opened(file), path.stat().st_size)
        except Refused as refusal:
            advice = _ADVICE[type(refusal)]
            raise UserError(f"{path} is refused: {refusal}; {advice}.") from refusal
        # Damaged archives and wrong shapes can raise any of these.
        except (
            OSError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError, OverflowError
        ) as error:  # fmt: skip
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise UserError(
                f"{path} is a damaged PyTorch checkpoint ({reason}): {_ADVICE[_Damaged]}."
            ) from error


def _opened(file: BinaryIO) -> tuple[Any, Callable[[Storage], bytes], str]:
    """The pickled value, a function that gives a storage's bytes, and the byte order."""
    start, size = file.read(_START), file.seek(0, io.SEEK_END)
    if zipfile.is_zipfile(file):
        return _read_zip(zipfile.ZipFile(file), size)
    if start.startswith(b"PK\x03\x04"):
        raise _Damaged("it is truncated: the end of the archive is missing")
    if _OLD_START in start:
        return _read_old(file, size)
    begins = f"it begins with {start[:16]!r}" if start else "it is empty"
    raise _Foreign(f"it is not a PyTorch checkpoint ({begins})")


def _read_zip(archive: zipfile.ZipFile, size: int) -> tuple[Any, Callable[[Storage], bytes], str]:
    entries = archive.infolist()
    pickles = [entry for entry in entries if entry.filename.split("/")[1:] == ["data.pkl"]]
    if len(pickles) != 1:
        raise _Foreign("it is an archive without the data.pkl of a PyTorch checkpoint")
    # Members that are compressed, or that overlap, could expand to any size.
    if sum(entry.file_size for entry in entries) > size:
        raise _Foreign("its parts are larger than the file, and PyTorch does not compress")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise _Foreign("its parts are compressed, which PyTorch does not do")
    if pickles[0].file_size > _LARGEST_PICKLE:
        raise _too_large()
    folder = pickles[0].filename.removesuffix("data.pkl")

    def member(name: str) -> bytes:
        try:
            return archive.read(folder + name)
        except KeyError:
            raise _Damaged(f"the archive lacks {ascii(folder + name)[:60]}") from None

    has_order = f"{folder}byteorder" in archive.namelist()
    order = ">" if has_order and member("byteorder") == b"big" else "<"
    value = _unpickled(io.BytesIO(member("data.pkl")), {})
    return value, lambda storage: member(f"data/{storage.key}"), order


def _too_large() -> Refused:
    return Refused(f"its pickle is larger than {_LARGEST_PICKLE} bytes")


def _read_old(file: BinaryIO, size: int) -> tuple[Any, Callable[[Storage], bytes], str]:
    file.seek(0)
    pickles = io.BytesIO(file.read(_LARGEST_PICKLE))
    storages: dict[str, Storage] = {}

    def value() -> Any:
        try:
            return _unpickled(pickles, storages)
        except Refused as refusal:
            # The storages follow the last pickle.
            if pickles.read(1):
                raise
            if size > _LARGEST_PICKLE:
                raise _too_large() from refusal
            raise _Damaged("it is truncated: its pickle ends too early") from refusal

    value()  # the magic number
    value()  # the protocol's version
    system = value()
    order = "<" if not isinstance(system, dict) or system.get("little_endian", True) else ">"
    described = value()
    keys = value()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise _Damaged("it has no list of its storages")
    file.seek(pickles.tell())
    places = {}
    for key in keys:
        head = file.read(8)
        if len(head) < 8 or key not in storages:
            raise _Damaged("it is truncated")
        length = struct.unpack(f"{order}q", head)[0] * _width(storages[key])
        if not 0 <= length <= size - file.tell():
            raise _Damaged("it is truncated")
        places[key] = (file.tell(), length)
        file.seek(length, io.SEEK_CUR)

    def content(storage: Storage) -> bytes:
        start, length = places.get(storage.key, (0, 0))
        file.seek(start)
        return file.read(length)

    return described, content, order


def _arrays(
    value: Any, content: Callable[[Storage], bytes], order: str, size: int
) -> dict[str, np.ndarray]:
    storages: dict[Storage, np.ndarray] = {}
    arrays = {}
    for name, tensor in _tensors(value):
        storage = tensor.storage
        if storage not in storages:
            storages[storage] = _numbers(content(storage), storage, order)
        arrays[name] = _view(storages[storage], tensor, name)
    if not arrays:
        raise Refused("it holds no named tensors")
    if sum(array.nbytes for array in arrays.values()) > _MOST_SHARING * size:
        raise Refused(f"its tensors are more than {_MOST_SHARING} times as large as the file")
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
        raise _Damaged(
            f"storage {ascii(storage.key)[:30]} has {len(content)} bytes where "
            f"{storage.count * _width(storage)} were declared"
        )
    if storage.dtype == "bfloat16":
        # The upper half of a float32.
        return (np.frombuffer(content, f"{order}u2").astype(np.uint32) << 16).view(np.float32)
    numbers = np.frombuffer(content, f"{order}{storage.dtype}")
    return numbers.astype(numbers.dtype.newbyteorder("="), copy=False)


def _view(numbers: np.ndarray, tensor: Tensor, name: str) -> np.ndarray:
    size = int(np.prod(tensor.shape, dtype=object))
    steps = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
    # With strides of 0, a tensor larger than its storage could expand a small file without limit.
    if size > len(numbers) or (size and tensor.offset + steps >= len(numbers)):
        raise _Damaged(f"tensor {ascii(name)[:60]} reaches beyond its storage")
    if not size:
        return np.zeros(tensor.shape, numbers.dtype)
    # The stride of an axis of length one is never used, and can be any number.
    strides = [
        s * numbers.itemsize * (n > 1) for n, s in zip(tensor.shape, tensor.strides, strict=True)
    ]
    return np.lib.stride_tricks.as_strided(
        numbers[tensor.offset :], tensor.shape, strides, writeable=False
    )


class _Pickler(pickle._Pickler):
    """Writes `Storage`s and `Tensor`s as PyTorch does, but without importing its functions."""

    save: Callable[[Any], None]
    write: Callable[[bytes], Any]

    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, Storage):
            return None
        name = next(name for name, dtype in _STORAGES.items() if dtype == obj.dtype)
        return "storage", Name(name), obj.key, "cpu", obj.count

    def save_name(self, name: Name) -> None:
        module, _, last = name.rpartition(".")
        self.write(pickle.GLOBAL + f"{module}\n{last}\n".encode())

    def save_tensor(self, tensor: Tensor) -> None:
        self.save(Name(_TENSOR))
        # Without a gradient and without hooks.
        self.save((*tensor, False, OrderedDict()))
        self.write(pickle.REDUCE)

    dispatch: ClassVar[dict[type, Any]] = pickle._Pickler.dispatch | {
        Name: save_name,
        Tensor: save_tensor,
    }


def _pickled(value: Any) -> bytes:
    stream = io.BytesIO()
    pickler = _Pickler(stream, protocol=2)
    # No memo, so that the bytes do not depend on which equal strings are one object.
    pickler.fast = True
    pickler.dump(value)
    return stream.getvalue()


def _described(tensors: Mapping[str, np.ndarray], epoch: int) -> dict[str, Any]:
    """What `torch.save` pickles: storage KEY holds the tensor number KEY in C order."""
    state = OrderedDict()
    for key, (name, array) in enumerate(tensors.items()):
        storage = Storage(array.dtype.str[1:], str(key), array.size)
        strides = tuple(math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim))
        state[name] = Tensor(storage, 0, array.shape, strides)
    return {"epoch": epoch, "state_dict": state}


def write(path: Path, tensors: Mapping[str, np.ndarray], epoch: int) -> None:
    """Writes ``{"epoch": …, "state_dict": …}`` as `torch.save` does.

    Args:
      path: the file to write; it is incomplete if this fails.
      tensors: float32 or int64 arrays by name.
      epoch: the number of epochs of the training.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        parts = {"data.pkl": _pickled(_described(tensors, epoch))}
        parts |= {"byteorder": b"little", "version": b"3\n"}
        for name, content in parts.items():
            archive.writestr(zipfile.ZipInfo(f"model/{name}", _DATE), content)
        for key, array in enumerate(tensors.values()):
            content = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
            archive.writestr(zipfile.ZipInfo(f"model/data/{key}", _DATE), content)
