"""JSON lines that are only ever added to, each found again by its key: what is paid for with time or money."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from runner.errors import read_error


class Ledger(Mapping[str, dict[str, Any]]):
    """A file of rows that each hold a `key`; of a key that stands twice, the last row counts.

    Rows stay on the disk: what is kept in memory is where each of them begins.
    """

    def __init__(self, path: Path, *, durable: bool) -> None:
        """Open a ledger, or begin one.

        Args:
            path: The file. A last line that a kill tore is cut off.
            durable: Whether each row is on the disk itself before `add` returns, so that it outlives a power cut.

        Raises:
            DataError: A line in its middle is damaged.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self._durable = path, durable
        self._places: dict[str, int] = {}
        self._file = path.open("a+b")
        self._end = self._read()

    def _read(self) -> int:
        self._file.seek(0)
        end = 0
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n"):
                self._file.truncate(end)
                break
            try:
                self._places[json.loads(line)["key"]] = end
            except (ValueError, TypeError, KeyError) as error:
                raise read_error(self.path, number, "is damaged; remove this line, and it is made again") from error
            end += len(line)
        return end

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __getitem__(self, key: str) -> dict[str, Any]:
        self._file.seek(self._places[key])
        row: dict[str, Any] = json.loads(self._file.readline())
        return row

    def add(self, key: str, row: Mapping[str, Any]) -> None:
        """Add a row; it survives whatever ends the process afterwards."""
        line = json.dumps({"key": key, **row}, ensure_ascii=False).encode() + b"\n"
        # Opened for appending, so that it is written at the end wherever a row was last read.
        self._file.write(line)
        self._file.flush()
        if self._durable:
            os.fsync(self._file.fileno())
        self._places[key] = self._end
        self._end += len(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
