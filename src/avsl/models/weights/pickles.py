"""Reads pickled weights without executing code in them."""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from avsl.schema import ConfigError

# Keys of the state dict in checkpoints that also hold the optimizer and the epoch.
_WRAPPERS = ("model", "state_dict", "model_state_dict")


class _ForbiddenError(pickle.UnpicklingError):
    """A pickle asks for what may not be made; the argument names it."""


def _encode(text: str, encoding: str) -> bytes:
    """Encode text as protocol 2 encodes bytes."""
    if encoding != "latin1":
        raise _ForbiddenError(f"bytes in {encoding}")
    return text.encode("latin1")


_RECONSTRUCT: Any = np.zeros(0).__reduce__()[0]
_SCALAR: Any = np.float64(0).__reduce__()[0]
_KNOWN: dict[str, Any] = {
    **{f"numpy.{core}.multiarray.{name}": make for core in ("core", "_core") for name, make in
       (("_reconstruct", _RECONSTRUCT), ("scalar", _SCALAR))},
    "numpy.ndarray": np.ndarray,
    "numpy.dtype": np.dtype,
    "_codecs.encode": _encode,
    "collections.OrderedDict": OrderedDict,
    "torch.Size": torch.Size,
    "torch._utils._rebuild_tensor": torch._utils._rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
}  # fmt: skip


class _Unpickler(pickle.Unpickler):
    """An unpickler of NumPy's arrays and scalars and of tensors' storages only.

    Raises:
        _ForbiddenError: another name occurs.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Find one of the callables that build arrays, scalars and tensors."""
        path = f"{module}.{name}"
        if module == "torch" and name.endswith("Storage"):
            found = getattr(torch, name, None)
        elif module == "numpy.dtypes":
            found = getattr(np.dtypes, name, None) if name.endswith("DType") else None
        else:
            found = _KNOWN.get(path)
        if found is None:
            raise _ForbiddenError(path)
        # A new object each time, because a pickle can set attributes of it.
        return found if isinstance(found, type) else partial(found)


def read_pickled(path: Path) -> Any:
    """Read a file of ``torch.save``, or of ``numpy.save`` with an object in it.

    No code in the file is executed; only numbers, text, containers, arrays and tensors are allowed.

    Raises:
        ConfigError: the file cannot be read or holds another object; names the file and the object.
    """
    try:
        with path.open("rb") as file:
            return _load_array(file) if file.read(6) == b"\x93NUMPY" else _load_tensors(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except _ForbiddenError as error:
        raise ConfigError(
            f"{path} is refused: it holds '{error}' beside tensors, arrays and plain containers"
        ) from None
    except Exception as error:  # a damaged file can raise any error
        raise ConfigError(f"{path} is damaged or no checkpoint ({type(error).__name__})") from error


def _load_array(file: IO[bytes]) -> Any:
    file.seek(0)
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if not dtype.hasobject:
        file.seek(0)
        return np.load(file, allow_pickle=False)
    # Python 2 wrote text as bytes.
    content = _Unpickler(file, encoding="latin1").load()
    return content.item() if isinstance(content, np.ndarray) and shape == () else content


def _load_tensors(path: Path) -> Any:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise _ForbiddenError("TorchScript code")
    module = SimpleNamespace(
        __name__="avsl", Unpickler=_Unpickler, load=lambda file, **settings: _Unpickler(file, **settings).load()
    )
    return torch.load(path, map_location="cpu", weights_only=False, pickle_module=module)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a PyTorch checkpoint by name, without DataParallel's prefix.

    Args:
        path: a file of ``torch.save``: a state dict, or one under ``model``, ``state_dict`` or ``model_state_dict``
            beside other values (optimizer, epoch, scores).

    Raises:
        ConfigError: the file cannot be read, holds other objects than tensors and plain containers, or no state dict.
    """
    content = read_pickled(path)
    if isinstance(content, Mapping):
        inner = [content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)]
        content = inner[0] if inner else content
    if not isinstance(content, Mapping) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise ConfigError(f"{path} holds no state dict, neither plain nor under {', '.join(_WRAPPERS)}")
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}
