"""Reads a distributed checkpoint of torch without unpickling anything but descriptions of its tensors."""

from __future__ import annotations

import pickle
import re
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, ClassVar

import torch
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.serialization import _get_layout

from runner.errors import StepError

METADATA = ".metadata"
"""The file that torch writes last into a folder of tensors: a pickle that says where each tensor is stored."""


def _memory_format(kind: object, name: object) -> metadata._MEM_FORMAT_ENCODING:
    """Return a memory format that a pickle gives as class and name, for `getattr`.

    Python 3.11.2, which Debian 12 has, pickles the members of an enum so; 3.11.7 pickles class and value. `getattr`
    itself could reach anything.

    Raises:
        StepError: It is the attribute of something else.
    """
    formats = metadata._MEM_FORMAT_ENCODING
    if kind is not formats or not isinstance(name, str) or name not in formats.__members__:
        raise StepError(f"names the attribute {name!r} of {kind!r}, which does not describe tensors")
    return formats[name]


_DESCRIPTIONS = {
    (module.__name__, name): getattr(module, name)
    for module, names in {
        metadata: (
            "ChunkStorageMetadata",
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorProperties",
            "TensorStorageMetadata",
            "_MEM_FORMAT_ENCODING",
        ),
        filesystem: ("_StorageInfo",),
    }.items()
    for name in names
} | {
    ("builtins", "getattr"): _memory_format,
    ("torch", "Size"): torch.Size,
    ("torch.serialization", "_get_layout"): _get_layout,
    # The path at which the checkpoint was written, which the reader does not use.
    ("pathlib", "PosixPath"): PurePosixPath,
    ("pathlib._local", "PosixPath"): PurePosixPath,
}
"""What the file may name. Unpickling anything else could run the code of whoever wrote the checkpoint."""

_TENSOR_FILE = re.compile(r"__\d+_\d+\.distcp")


class _DescriptionUnpickler(pickle._Unpickler):
    """Creates descriptions. Python's unpickler, unlike that in C, lets a subclass check what a file changes."""

    def load_build(self) -> None:
        """Set the attributes of a description; those of a class or function would stay changed in this process."""
        described = self.stack[-2]  # type: ignore[attr-defined]  # not in the type stubs
        if isinstance(described, type) or callable(described):
            raise StepError(f"changes {described!r}, which is not the description of a tensor")
        super().load_build()  # type: ignore[misc]

    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build}

    def find_class(self, module: str, name: str, /) -> Any:
        dtype = getattr(torch, name, None) if module == "torch" else None
        if isinstance(dtype, torch.dtype):
            return dtype
        if (module, name) not in _DESCRIPTIONS:
            raise StepError(f"names {module}.{name}, which does not describe tensors")
        return _DESCRIPTIONS[module, name]


class CheckpointReader(FileSystemReader):
    """Reads checkpoints that `TrainingState.write` wrote, and refuses others.

    torch's own reader unpickles any object from `.metadata`, and from the tensor files where `.metadata` names objects
    that are not tensors.
    """

    def __init__(self, folder: Path) -> None:
        """Take the folder of a checkpoint."""
        super().__init__(folder)
        self._folder = folder

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Read the descriptions of all tensors.

        Raises:
            StepError: The file holds something else, or places tensors outside the checkpoint's own files.
        """
        try:
            with (self._folder / METADATA).open("rb") as file:
                described = self._unpickle(file)
            self._check(described)
        except StepError as error:
            raise StepError(f"{self._folder / METADATA}: {error}; the runner does not load it") from error
        described.storage_meta = metadata.StorageMeta(load_id=self.load_id)
        assert isinstance(described, Metadata)
        return described

    @staticmethod
    def _unpickle(file: BinaryIO) -> Any:
        try:
            return _DescriptionUnpickler(file).load()
        except MemoryError as error:  # the file is small, so that a length in it is wrong
            raise StepError("is damaged: it describes more data than fit into memory") from error

    def _check(self, described: object) -> None:
        if not isinstance(described, Metadata) or not isinstance(described.state_dict_metadata, dict):
            raise StepError("is not the description of a checkpoint")
        for name, tensor in described.state_dict_metadata.items():
            if not isinstance(tensor, TensorStorageMetadata):
                raise StepError(f"{name!r} is not a tensor")
        for place in described.storage_data.values() if isinstance(described.storage_data, dict) else [None]:
            if not isinstance(place, filesystem._StorageInfo) or place.transform_descriptors:
                raise StepError("a tensor is not stored in the form in which the runner stores tensors")
            path = place.relative_path
            if not isinstance(path, str) or not _TENSOR_FILE.fullmatch(path) or (self._folder / path).is_symlink():
                raise StepError(f"{path!r} is not a tensor file of the checkpoint")
