"""Options of the source `gmner`."""

from __future__ import annotations

from typing import Annotated

from runner.stages import FilePath, Options, OutsideFingerprint


class GmnerOptions(Options):
    """Twitter GMNER, version 1 or 2, as its authors publish it (the repository NUSTM/GMNER), with its pictures."""

    path: Annotated[FilePath, OutsideFingerprint()]
    """The folder that holds `txt/` (train.txt, dev.txt, test.txt) and `xml/`."""
    images: Annotated[FilePath | None, OutsideFingerprint()] = None
    """The folder of pictures, named by IMGID; none: `images` in `path`."""
