"""A checkpoint's archive, checked before torch opens it: the names in its pickle, and the sizes of its tensors.

torch takes the size of a tensor's storage from the pickle and reads that many bytes, however few the archive has; it
unpacks what is compressed to any size; and its restricted unpickler makes more kinds of objects than checkpoints need.
"""

import collections
import io
import pickle
import re
import zipfile
from pathlib import Path

import torch

_MAX_PICKLE_BYTES = 256 << 20
"""Of the values beside the tensors' data: a hundred thousand tensors take some 20 MB."""

_MAX_ENTRIES = 2_000_000
_ENTRY = re.compile(
    r'data\.pkl|data/\d+|byteorder|version|\.data/serialization_id|\.format_version|\.storage_alignment'
)
_ELEMENT_BYTES = {
    name: torch.empty(0, dtype=dtype).element_size()
    for name, dtype in {
        'FloatStorage': torch.float32,
        'DoubleStorage': torch.float64,
        'HalfStorage': torch.float16,
        'BFloat16Storage': torch.bfloat16,
        'LongStorage': torch.int64,
        'IntStorage': torch.int32,
        'ShortStorage': torch.int16,
        'CharStorage': torch.int8,
        'ByteStorage': torch.uint8,
        'BoolStorage': torch.bool,
        'ComplexFloatStorage': torch.complex64,
        'ComplexDoubleStorage': torch.complex128,
        'UntypedStorage': torch.uint8,
    }.items()
}


def check_archive(path: Path) -> None:
    """Check a zip archive of torch's without creating any of its tensors.

    Raises:
        ValueError: It is none, holds more than plain values and tensors, or its tensors do not lie in it.
        pickle.UnpicklingError: It names something that only running code could make.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        folders = {name.partition('/')[0] for name in names}
        is_ours = all(_ENTRY.fullmatch(name.partition('/')[2]) for name in names)
        if not is_ours or len(entries) > _MAX_ENTRIES or len(set(names)) < len(names) or len(folders) != 1:
            raise ValueError('its archive is not laid out as torch lays one out')
        if any(
            entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size for entry in entries
        ):
            raise ValueError('its archive is compressed, which fit never does')
        sizes = {entry.filename: entry.file_size for entry in entries}
        if sum(sizes.values()) > path.stat().st_size:
            raise ValueError('its archive claims to hold more than the file')
        folder = folders.pop()
        if sizes.get(f'{folder}/data.pkl', _MAX_PICKLE_BYTES + 1) > _MAX_PICKLE_BYTES:
            raise ValueError('its archive has no data.pkl, or one that is too large')
        file = io.BytesIO(archive.read(f'{folder}/data.pkl'))  # whole, so that it is compared with the archive's CRC
        _Scan(file, {name.removeprefix(f'{folder}/data/'): size for name, size in sizes.items()}).load()


class _Storage:
    def __init__(self, n_bytes: int, element_bytes: int) -> None:
        self.n_bytes = n_bytes
        self.element_bytes = element_bytes


class _Scan(pickle.Unpickler):
    """Reads a pickle with stand-ins for tensors; nothing that it names is imported or called."""

    def __init__(self, file: io.BytesIO, sizes: dict[str, int]) -> None:
        super().__init__(file)
        self._sizes = sizes

    def find_class(self, module: str, name: str) -> object:
        if module in ('torch', 'torch.storage') and name in _ELEMENT_BYTES:
            return name
        if module == 'torch' and isinstance(getattr(torch, name, None), torch.dtype):
            return name
        stand_in = _STAND_INS.get((module, name))
        if stand_in is None:
            raise pickle.UnpicklingError(f'{module}.{name} is no plain value')
        return stand_in

    def persistent_load(self, pid: object) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) != 5:
            raise ValueError('it holds a tensor whose data is nowhere')
        kind, name, key, _, n_elements = pid
        size = self._sizes.get(key)
        element_bytes = _ELEMENT_BYTES[name]
        if kind != 'storage' or size is None or not _is_count(n_elements) or n_elements * element_bytes > size:
            raise ValueError(f'the data of tensor {str(key)[:40]} is not in its archive')
        return _Storage(n_elements * element_bytes, element_bytes)


def _tensor(storage: object, offset: int, size: object, stride: object, *_: object) -> None:
    if not isinstance(storage, _Storage) or not isinstance(size, tuple) or not isinstance(stride, tuple):
        raise ValueError('it holds a tensor that is none')
    if not all(map(_is_count, (offset, *size, *stride))) or len(size) != len(stride) or len(size) > 16:
        raise ValueError('it holds a tensor whose size is none')
    if 0 not in size:
        last = offset + sum((n - 1) * step for n, step in zip(size, stride))
        if (last + 1) * storage.element_bytes > storage.n_bytes:
            raise ValueError(f'it holds a tensor of shape {size} that does not lie in its storage')


def _tensor_of_dtype(
    storage: object, offset: int, size: object, stride: object, grad: object, hooks: object, dtype: object, *_: object
) -> None:
    named = getattr(torch, str(dtype), None)
    if not isinstance(storage, _Storage) or not isinstance(named, torch.dtype):
        raise ValueError('it holds a tensor that is none')
    _tensor(_Storage(storage.n_bytes, named.itemsize), offset, size, stride)


def _parameter(data: object, *_: object) -> None:
    if data is not None:
        raise ValueError('it holds a parameter that is none')


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


_STAND_INS = {
    ('collections', 'OrderedDict'): collections.OrderedDict,
    ('torch._utils', '_rebuild_tensor_v2'): _tensor,
    ('torch._utils', '_rebuild_tensor_v3'): _tensor_of_dtype,
    ('torch._utils', '_rebuild_parameter'): _parameter,
    ('torch', 'Size'): tuple,
    ('torch', 'device'): str,
}
