"""Encoded samples in files that workers, restarts and trials share, memory-mapped."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from uuid import uuid4

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from runner.records import Rendered
from runner.stages import Features

ABANDONED = 3600.0
"""Seconds after which an unfinished file is taken to be left over from a kill; writing one takes a fraction of one."""


class SampleFiles:
    """A folder with a file for each encoded sample.

    A file is there whole or not at all: it is written under another name first, so two workers who encode one sample at
    once do no harm, nor does a kill. It is read by mapping it into memory, where the operating system keeps it once for
    all processes and lets go of it when others need the room. An image of a megapixel takes 24 MB.

    This folder and those beside it take no more than half of what is free without them: checkpoints need the rest.
    """

    def __init__(self, folder: Path, made_by: Sequence[object], warn: Callable[[str], object]) -> None:
        """Take the folder, and measure what there is.

        Args:
            folder: For samples of one data set as one model encodes them; made where it is missing.
            made_by: What else decides what becomes of a sample, as plain data.
            warn: Told once when the disk has no room for a sample.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._made_by, self._warn = folder, made_by, warn
        _remove_abandoned(folder)
        held = sum(_sizes(folder.parent))
        self._least = (shutil.disk_usage(folder).free + held) / 2
        self._full = False

    def read(self, sample: Rendered) -> Features | None:
        """A sample as it was written; None where it was not, or where its file is torn."""
        try:
            return load_file(self._file(sample))
        except (FileNotFoundError, SafetensorError):
            return None

    def write(self, sample: Rendered, features: Features) -> None:
        """Keep a sample, where there is room for it."""
        self._folder.mkdir(parents=True, exist_ok=True)  # Somebody may have cleared the cache.
        size = sum(each.nbytes for each in features.values())
        if shutil.disk_usage(self._folder).free - size < self._least:
            self._tell_full()
            return
        target = self._file(sample)
        unfinished = target.with_name(f".{uuid4().hex}")
        save_file({name: tensor.contiguous() for name, tensor in features.items()}, unfinished)
        with suppress(FileNotFoundError):  # cleared just now
            unfinished.chmod(0o644)  # safetensors makes files private; a storage is shared.
            unfinished.replace(target)

    def _file(self, sample: Rendered) -> Path:
        """The file of a sample, named by what it says; the bytes of its images are the folder's business."""
        told = json.dumps([self._made_by, asdict(sample)], sort_keys=True, default=lambda path: path.name)
        return self._folder / f"{hashlib.sha256(told.encode()).hexdigest()[:32]}.safetensors"

    def _tell_full(self) -> None:
        if not self._full:
            self._full = True
            self._warn(
                f"{self._folder.parent} takes half of what is free on its disk, so that further samples are encoded "
                "again in every epoch; remove folders of earlier experiments there, or name another compute.storage"
            )


def _remove_abandoned(folder: Path) -> None:
    for file in folder.glob(".*"):
        with suppress(FileNotFoundError):  # another worker removed it
            if time.time() - file.stat().st_mtime > ABANDONED:
                file.unlink()


def _sizes(folder: Path) -> Iterator[int]:
    for file in folder.glob("*/*.safetensors"):
        with suppress(FileNotFoundError):  # removed meanwhile
            yield file.stat().st_size
