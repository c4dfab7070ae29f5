"""Finds the images of a corpus in one folder or several, whatever the case of their suffixes."""

from __future__ import annotations

import filecmp
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from runner.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")
"""Suffixes of image files, in the order of preference; those of `runner.images.FORMATS`."""
MAX_LISTED_FOLDERS = 5


def image_folders(images: Path | Sequence[Path] | None, default: Path) -> Sequence[Path]:
    """Return the folders that an option of the type `Images` names; None names the default."""
    if images is None:
        return [default]
    return [images] if isinstance(images, Path) else images


class ImageFolders:
    """The folders with the images of a corpus.

    Each folder is listed once, when an image in it is first looked up.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        """Store the folders.

        Args:
            folders: At least one folder. The paths of images are relative to each of them.
        """
        self._folders = list(folders)
        self._listed: dict[Path, dict[str, list[str]]] = {}

    def check(self) -> None:
        """Check that the folders exist and contain images.

        Raises:
            DataError: A folder does not exist, or contains folders with images but no image. The error lists all.
        """
        problems = [problem for folder in self._folders if (problem := self._problem(folder))]
        if problems:
            raise DataError("\n".join(problems))

    def find(self, name: str) -> Path:
        """Find an image by its path in one of the folders.

        Args:
            name: The path of the image, separated by `/`. Its suffix may differ in case, and may be missing.

        Returns:
            The path of the image; if no folder has it, a path that does not exist.

        Raises:
            DataError: Several files have this name, and their contents differ.
        """
        files = self._candidates(name)
        if not files:
            return self._folders[0] / (name if PurePosixPath(name).suffix else f"{name}{SUFFIXES[0]}")
        first, *others = files
        for other in others:
            if not filecmp.cmp(first, other, shallow=False):
                raise DataError(
                    f"the image {name!r} exists twice with different content, as {first} and {other}; remove or "
                    "rename the wrong one"
                )
        return first

    def _candidates(self, name: str) -> list[Path]:
        """List the files with this name, those of the first folder first; exactly this name before others."""
        path = PurePosixPath(name)
        has_suffix = _suffix(name) in SUFFIXES
        found = []
        for folder in self._folders:
            parent = folder / path.parent
            names = [path.name] if has_suffix and (parent / path.name).is_file() else []
            same_stem = self._list(parent).get(path.stem if has_suffix else path.name, [])
            names += [
                file for file in same_stem if file not in names and (not has_suffix or _suffix(file) == _suffix(name))
            ]
            found += [parent / file for file in names]
        return found

    def _list(self, folder: Path) -> dict[str, list[str]]:
        """List the image files of a folder by their names without suffix, in the order of `SUFFIXES`."""
        if folder not in self._listed:
            files = defaultdict[str, list[str]](list)
            for name in sorted(os.listdir(folder)) if folder.is_dir() else ():
                if _suffix(name) in SUFFIXES:
                    files[PurePosixPath(name).stem].append(name)
            for names in files.values():
                names.sort(key=lambda name: SUFFIXES.index(_suffix(name)))
            self._listed[folder] = dict(files)
        return self._listed[folder]

    def _problem(self, folder: Path) -> str | None:
        if not folder.is_dir():
            return f"{folder}: no such folder; source.images is the folder with the images, or a list of folders"
        if self._list(folder):
            return None
        inside = sorted(path for path in folder.iterdir() if path.is_dir() and self._list(path))
        if not inside:
            return None
        listed = ", ".join(str(path) for path in inside[:MAX_LISTED_FOLDERS])
        more = f" and {len(inside) - MAX_LISTED_FOLDERS} more" if len(inside) > MAX_LISTED_FOLDERS else ""
        return f"{folder}: contains no image, but folders with images: {listed}{more}; list them in source.images"


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()
