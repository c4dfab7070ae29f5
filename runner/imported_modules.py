"""Notices modules that were edited after their import: Python goes on running the text that it imported."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path

from runner.errors import RequirementError

ENGINE = "runner"
"""The package of the engine."""
SHIPPED = "plugins"
"""The package of the shipped plugins, which other plugins may build on."""

_NOTED: dict[str, tuple[object, tuple[int, int] | bytes]] = {}
"""The modules that this process has imported: the spec of the import; and time and size of the file or, once it was
compared, the text."""


def note_imported(packages: Collection[str] = ()) -> None:
    """Remember the state of what this process has imported from the engine, the shipped plugins and some packages.

    The earlier after the import this is done, the fewer edits go unnoticed. No file is read, as this is done for every
    command.
    """
    followed = {ENGINE, SHIPPED, *packages}
    for module in [name for name in list(sys.modules) if name.partition(".")[0] in followed]:
        _note(module)


def check_unedited(module: str, file: Path, content: bytes) -> None:
    """Refuse a module that was edited after its import.

    Args:
        module: The module's dotted name; it need not be imported.
        file: Its source file.
        content: The content of the file.

    Raises:
        RequirementError: This process runs an older text of the module.
    """
    noted = _note(module) if module in sys.modules else None
    if noted is None:
        return
    import_spec, state = noted
    is_same = state == content if isinstance(state, bytes) else state == _state(file)
    if not is_same:
        raise RequirementError(
            f"{file} was edited after this process imported it, so the code that runs here is not the code in the "
            "file; restart the process (in a notebook, the kernel)"
        )
    # From now on, a new time of the same text does not count as an edit.
    _NOTED[module] = (import_spec, content)


def _note(module: str) -> tuple[object, tuple[int, int] | bytes] | None:
    """Return what is noted of an imported module; None if it is no source file."""
    import_spec = getattr(sys.modules[module], "__spec__", None)
    noted = _NOTED.get(module)
    # `importlib.reload` creates a new spec.
    if noted is not None and noted[0] is import_spec:
        return noted
    origin = getattr(import_spec, "origin", None) or ""
    if not origin.endswith(".py"):
        return None
    try:
        _NOTED[module] = (import_spec, _state(Path(origin)))
    except OSError:  # removed meanwhile
        return None
    return _NOTED[module]


def _state(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_mtime_ns, status.st_size
