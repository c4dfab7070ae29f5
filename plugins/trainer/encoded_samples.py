"""Encodes samples on first use and shares them between processes as memory-mapped files."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Literal, Protocol
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from runner.errors import DataError
from runner.files import apply_umask
from runner.records import IGNORED, Rendered
from runner.stages import Features

ABANDONED_SECONDS = 3600.0
"""Age in seconds from which an unfinished file counts as left by a killed process; writing takes less than a second."""


_UNFINISHED_NAME = re.compile(r"\.[0-9a-f]{32}")

DIGEST = "sha256"
"""The entry of a file's metadata that holds the digest of its tensors."""


def digest_of(features: Features) -> str:
    """Return the SHA-256 of the names, types, shapes and values of tensors."""
    digest = hashlib.sha256()
    for name, tensor in sorted(features.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        # NumPy has no bfloat16, but every tensor can be viewed as bytes.
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True)
class ImageFolder:
    """A folder for the image tensors of encoded samples, which all prompts with the same images of a sample share.

    Attributes:
        path: The folder; a sibling of the folder of the samples.
        settings: What the image tensors depend on, apart from the folder's name and the images, as plain data.
    """

    path: Path
    settings: Sequence[object]

    def file(self, sample: Rendered) -> Path:
        """Return the file of a sample's images."""
        return self.path / _file_name([self.settings, sample.sample_id, [image.name for image in sample.images]])


class SampleFiles:
    """A folder with one file for each encoded sample, and a folder with the image tensors that samples share.

    A file is complete or absent: it is written under a temporary name first. So neither a kill nor two workers that
    encode the same sample do harm. Files are memory-mapped: the operating system keeps one copy for all processes, and
    drops it when memory is needed. An image of a megapixel takes 3 MB, or 24 MB as float32.

    This folder and its siblings together use at most half of the disk space that is free without them: checkpoints need
    the rest.
    """

    def __init__(
        self,
        folder: Path,
        settings: Sequence[object],
        warn: Callable[[str], object],
        images: ImageFolder | None = None,
    ) -> None:
        """Open a folder and measure the space that it may use.

        Args:
            folder: Folder for the samples of one data set as one model encodes them; created if missing.
            settings: Everything else that the encoding depends on, as plain data.
            warn: Called once if the disk has no room for a sample.
            images: Folder for image tensors; None to write them into the files of the samples.

        Raises:
            DataError: The folder is a link, which another user of a shared cache may have made: files would be written
                and removed in its target.
        """
        for path in (folder, *([images.path] if images else [])):
            if path.is_symlink() or path.parent.is_symlink():
                raise DataError(f"{path}: encoded samples must lie in a folder, not in a link; remove the link")
            path.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(path)
        self._folder, self._settings, self._warn, self._images = folder, settings, warn, images
        used = sum(_file_sizes(folder.parent))
        self._min_free = (shutil.disk_usage(folder).free + used) / 2
        self._has_warned = False

    def missing_bytes(self, total: int, samples: Sequence[Rendered]) -> tuple[Path, int]:
        """Return the folder, and how many of the bytes of all samples are not written yet.

        Args:
            total: Estimated bytes of the files of all samples.
            samples: All samples.
        """
        files = [file for sample in samples for file in (self._file(sample), self._image_file(sample)) if file]
        written = 0
        for file in dict.fromkeys(files):
            with suppress(FileNotFoundError):
                written += file.stat().st_size
        return self._folder, max(0, total - written)

    def read(self, sample: Rendered) -> tuple[Features, str] | None:
        """Read an encoded sample and its digest; None if there is no file, or if it differs from what was written."""
        content = _read_tensors(self._file(sample))
        if content is None:
            return None
        features, written = content
        if self._images is not None and sample.images:
            images = _read_tensors(self._images.file(sample))
            if images is None:
                return None
            features |= images[0]
        digest = digest_of(features)
        return (features, digest) if digest == written else None

    def read_images(self, sample: Rendered) -> Features | None:
        """Read the image tensors of a sample that another prompt with the same images has left; None without any."""
        content = _read_tensors(self._images.file(sample)) if self._images is not None and sample.images else None
        return content[0] if content is not None and digest_of(content[0]) == content[1] else None

    def write(self, sample: Rendered, features: Features, token_names: Set[str] = frozenset()) -> str:
        """Write an encoded sample if there is room for it, and return its digest.

        If the disk takes no file although there seemed to be room, a warning says so, and the training continues.

        Args:
            sample: The sample.
            features: All its tensors.
            token_names: Names of the tensors that do not come from its images; not needed if all are in one file.
        """
        digest = digest_of(features)
        tokens = features
        if self._images is not None and sample.images:
            tokens = {name: tensor for name, tensor in features.items() if name in token_names}
            images = {name: tensor for name, tensor in features.items() if name not in token_names}
            file, image_digest = self._images.file(sample), digest_of(images)
            stored = _read_tensors(file)
            if stored is None or stored[1] != image_digest:
                self._write_file(file, images, image_digest)
        self._write_file(self._file(sample), tokens, digest)
        return digest

    def _image_file(self, sample: Rendered) -> Path | None:
        return self._images.file(sample) if self._images is not None and sample.images else None

    def _write_file(self, target: Path, features: Features, digest: str) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)  # The cache may have been cleared.
        size = sum(tensor.nbytes for tensor in features.values())
        if shutil.disk_usage(self._folder).free - size < self._min_free:
            self._warn_once(f"{self._folder.parent} uses half of the free space on its disk")
            return
        unfinished = target.with_name(f".{uuid4().hex}")
        try:
            save_file({name: tensor.contiguous() for name, tensor in features.items()}, unfinished, {DIGEST: digest})
            with suppress(FileNotFoundError):  # cleared just now
                apply_umask(unfinished)  # safetensors makes files private; a storage is shared.
                unfinished.replace(target)
        except (OSError, SafetensorError) as error:  # for example, other programs have filled the disk just now
            unfinished.unlink(missing_ok=True)
            self._warn_once(f"{target.parent}: an encoded sample cannot be written ({error})")

    def warn_of_other_content(self, sample: Rendered) -> None:
        """Warn that the file of a sample holds other content than this training checked."""
        self._warn(
            f"{self._file(sample)}: not the encoded sample {sample.id} that was checked, although the file is "
            "complete; the sample is encoded and checked again"
        )

    def _file(self, sample: Rendered) -> Path:
        """Return the file of a sample, named by a hash of its content; the folder's name covers the image bytes."""
        return self._folder / _file_name([self._settings, asdict(sample)])

    def _warn_once(self, problem: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            self._warn(
                f"{problem}, so samples without a file are encoded again in every epoch; delete folders of earlier "
                f"experiments in {self._folder.parent}, or set another compute.storage"
            )


def _file_name(content: object) -> str:
    text = json.dumps(content, sort_keys=True, default=lambda path: path.name)
    return f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"


def _read_tensors(path: Path) -> tuple[Features, str] | None:
    """Read the tensors of a file and the digest that was written with them; None if there is no complete file."""
    if not path.is_file():  # missing, or not a file: opening a pipe would wait forever
        return None
    try:
        with safe_open(path, framework="pt") as file:
            features = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return features, (file.metadata() or {}).get(DIGEST, "")
    except (FileNotFoundError, SafetensorError):
        return None


def _remove_abandoned(folder: Path) -> None:
    for file in folder.glob(".*"):
        if not _UNFINISHED_NAME.fullmatch(file.name):
            continue
        with suppress(FileNotFoundError):  # another worker removed it
            if time.time() - file.lstat().st_mtime > ABANDONED_SECONDS:
                file.unlink()


def _file_sizes(folder: Path) -> Iterator[int]:
    for file in folder.glob("*/*.safetensors"):
        with suppress(FileNotFoundError):  # removed meanwhile
            yield file.stat().st_size


OnOverlength = Literal["refuse", "truncate", "skip"]
"""How samples beyond the length limit are treated; see `SftOptions.on_overlength`."""


def is_skipped(features: Features) -> bool:
    """Return whether a sample was too long and is skipped: it then has no tokens."""
    return not len(features["input_ids"])


def apply_length_limit(features: Features, limit: int | None, sample: str, on_overlength: OnOverlength) -> Features:
    """Truncate, skip or refuse an encoded sample that is too long.

    Truncation cuts the end of the trained tokens, so a truncated answer has no end token. Prompt and images stay whole,
    and at least one token of the answer is left.

    Args:
        features: Tensors of shape (length,) hold one value per token; other tensors are left unchanged.
        limit: Maximum number of tokens; None for no limit.
        sample: The sample's id, for the error.
        on_overlength: How to treat a sample beyond the limit.

    Returns:
        The sample; a skipped one without any token or image.

    Raises:
        DataError: The sample must not be truncated, or its prompt leaves no room for an answer.
    """
    length = len(features["input_ids"])
    if limit is None or length <= limit:
        return features
    if on_overlength == "skip":
        return {name: features[name][:0] for name in ("input_ids", "labels")}
    prompt = length - int((features["labels"] != IGNORED).sum())
    problem = f"sample {sample}: {length:,} tokens ({prompt:,} of them prompt and images) exceed the limit of {limit:,}"
    if on_overlength == "refuse":
        raise DataError(
            f"{problem}; use smaller images (model.max_pixels), raise trainer.max_length if the model allows it, or "
            "set trainer.on_overlength to `truncate` (cuts the answer) or `skip` (leaves the sample out)"
        )
    if prompt >= limit:
        raise DataError(
            f"{problem}, and only the answer can be truncated; use smaller images (model.max_pixels), or raise "
            "trainer.max_length if the model allows it"
        )
    return {name: tensor[:limit] if tensor.shape == (length,) else tensor for name, tensor in features.items()}


class SampleEncoder(Protocol):
    """Encodes and checks samples."""

    def encode(self, rendered: Rendered, images: Features | None = None) -> tuple[Features, Set[str]]:
        """Encode a sample and check it.

        Args:
            rendered: The sample.
            images: Its image tensors, if they are known.

        Returns:
            Its tensors, without any token if it is skipped, and the names of those that do not come from its images.
        """


class EncodedSamples:
    """Encoded training samples, by their index in the split.

    A sample is encoded only if it has no file. What a file holds is checked like a newly encoded sample when this
    process first reads the file; later it must have the same digest. So each sample was checked in the form in which it
    is returned, although other processes can write to the files.
    """

    def __init__(
        self,
        samples: Sequence[Rendered],
        encoder: SampleEncoder,
        files: SampleFiles | None,
        is_valid: Callable[[Rendered, Features], bool],
    ) -> None:
        """Take rendered samples and a function that encodes one; nothing is encoded yet.

        Args:
            samples: All samples of the split.
            encoder: Encodes and checks samples.
            files: Files of encoded samples; None to encode a sample each time it is needed.
            is_valid: Checks features from a file as `encode` checks those that it returns.
        """
        self._samples = samples
        self._encoder = encoder
        self._files = files
        self._is_valid = is_valid
        self._checked: dict[int, str] = {}
        # Tokenizers are not thread-safe.
        self._lock = Lock()

    def id(self, index: int) -> str:
        """Return the id of the sample with this index."""
        return self._samples[index].id

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Keep other threads from encoding meanwhile."""
        with self._lock:
            yield

    def __getitem__(self, index: int) -> Features:
        """Return the encoded sample with this index.

        Raises:
            DataError: An image cannot be used, or the sample is too long.
        """
        with self._lock:
            stored = self._read(index)
            return self._encode_and_write(index) if stored is None else stored

    def _read(self, index: int) -> Features | None:
        """Read a sample's file; None if there is none, or if it does not hold what was checked."""
        sample = self._samples[index]
        content = self._files.read(sample) if self._files else None
        if self._files is None or content is None:
            return None
        features, digest = content
        if index not in self._checked and self._is_valid(sample, features):
            self._checked[index] = digest
        if self._checked.get(index) == digest:
            return features
        self._files.warn_of_other_content(sample)
        return None

    def _encode_and_write(self, index: int) -> Features:
        sample = self._samples[index]
        # Images that were checked before and have changed since are encoded again.
        images = self._files.read_images(sample) if self._files and index not in self._checked else None
        features, token_names = self._encoder.encode(sample, images)
        if self._files:
            self._checked[index] = self._files.write(sample, features, token_names)
        return features
