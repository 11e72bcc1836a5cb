"""Files of tensors in the format safetensors."""

import stat
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors, with the permissions of any other new file (the library's own are 0600).

    Raises:
        ValueError: Tensors share memory, or one is not contiguous.
        OSError: It cannot be written.
    """
    path.touch()
    mode = path.stat().st_mode
    save_file(dict(tensors), path, dict(metadata))
    path.chmod(stat.S_IMODE(mode))
