"""One cached artifact: the key that identifies it, its files with their hashes, and the lease while it is made."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from uuid import uuid4

from filelock import SoftFileLease, Timeout
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from runner.errors import RunnerError
from runner.files import link_or_copy, sync_tree, write_json, write_text
from runner.fingerprint_and_provenance import fingerprint, fingerprinted_options, host_info
from runner.resolved_plan import PARSING
from runner.spec.experiment_spec import VALIDATION_PREFIX, ExperimentSpec, Pins, Section
from runner.stages.registry import find_plugin

TRAINING_STAGES = ("data", "adapter", "model", "optimizer", "trainer")
"""The sections that determine the weights of the trained model."""


def training_key(spec: ExperimentSpec) -> str:
    """Hash everything that a training depends on.

    That is: the content of the data, the exact initial weights, the options, versions and code of the plugins from
    `data` to `trainer`, the engine's code for training, the seed, and the number of few-shot examples, because the
    preflight checks prompts with them. If validation samples are answered during training, the generator counts too,
    and so does the metric that selects the best model, if one does.
    """
    return fingerprint(_training_inputs(spec))


def generation_key(spec: ExperimentSpec) -> str:
    """Hash everything that the answers depend on: the training (or the untrained model) and the generator."""
    return fingerprint(
        {
            "training": _training_inputs(spec),
            "pipeline": spec.regime.model_dump(mode="json")["pipeline"],
            "generator": plugin_identity(spec, spec.generator),
            "engine": _pins(spec).code["engine.generate"],
        }
    )


def _training_inputs(spec: ExperimentSpec) -> dict[str, Any]:
    pins = _pins(spec)
    return {
        "seed": spec.seed,
        "data": pins.data,
        "model": pins.model,
        "engine": pins.code.get("engine.train"),
        "examples": spec.generator_options.num_few_shot,
        "regime": spec.regime.training_settings(),
        "stages": [plugin_identity(spec, getattr(spec, stage)) for stage in TRAINING_STAGES],
        "examined_by": _validation_plugins(spec),
    }


def _pins(spec: ExperimentSpec) -> Pins:
    assert spec.pinned is not None
    return spec.pinned


def _validation_plugins(spec: ExperimentSpec) -> list[Any]:
    """The generator of validation answers, and the metrics whose values select the best model."""
    options = spec.trainer_options
    if options is None or not options.generates_validation:
        return []
    selection = options.selection_metric
    selected_by = selection.metric.removeprefix(VALIDATION_PREFIX) if selection else None
    metrics = [
        section for section in spec.metrics if selected_by in find_plugin(section.stage, section.type).metric_names()
    ]
    parsing = [parsing_code(spec)] if metrics else []
    pipeline = spec.regime.model_dump(mode="json")["pipeline"]
    return [pipeline, *(plugin_identity(spec, section) for section in (spec.generator, *metrics)), *parsing]


def plugin_identity(spec: ExperimentSpec, section: Section | None) -> Any:
    """A plugin's name, its options that can change results, its version and its code; None for a section `none`."""
    if section is None:
        return None
    pins, name = _pins(spec), f"{section.stage}.{section.type}"
    return {
        "type": section.type,
        "options": fingerprinted_options(section.options),
        "plugin": pins.plugins[name],
        "code": pins.code[name],
    }


def parsing_code(spec: ExperimentSpec) -> dict[str, str]:
    """The identity of the code with which the adapter parses answers."""
    return _pins(spec).code[f"adapter.{spec.adapter.type}.{PARSING}"]


def validation_metric_identities(spec: ExperimentSpec) -> dict[str, Any]:
    """The identities of the metrics that score validation answers, by plugin name; empty if none are generated."""
    options = spec.trainer_options
    if options is None or not options.generates_validation:
        return {}
    return {section.type: [plugin_identity(spec, section), parsing_code(spec)] for section in spec.metrics}


class ReusedMetrics:
    """Decides which metric values of a reused training are valid for the spec that reuses it.

    Attributes:
        changed_metrics: The metric plugins of the spec that did not score the training, or not as they are now.
    """

    def __init__(self, spec: ExperimentSpec, previous: Mapping[str, Any]) -> None:
        """Compare the metrics of the spec with those that scored the training.

        Args:
            spec: The spec that reuses the training.
            previous: What `validation_metric_identities` returned for the spec that trained.
        """
        current = validation_metric_identities(spec)
        self._has_changes = current != previous
        unchanged = [name for name in current if previous.get(name) == current[name]]
        trainer_metrics = set(spec.trainer_options.validation_metrics if spec.trainer_options else ())
        self._valid = trainer_metrics | {
            f"{VALIDATION_PREFIX}{metric}"
            for name in unchanged
            for metric in find_plugin("metric", name).metric_names()
        }
        self.changed_metrics = [name for name in current if name not in unchanged]

    def keep_valid(self, values: Mapping[str, float | None]) -> dict[str, float | None]:
        """Remove the values of metrics that have changed or that the spec does not have."""
        return {name: value for name, value in values.items() if self._is_valid(name)}

    def _is_valid(self, name: str) -> bool:
        return not (self._has_changes and name.startswith(VALIDATION_PREFIX)) or name in self._valid


def list_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the relative path and the path of each file in a folder and its subfolders, sorted."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        yield path.relative_to(folder).as_posix(), path


def describe_file(file: Path) -> dict[str, Any]:
    """Return the `size` in bytes and the `sha256` of a file."""
    with file.open("rb") as content:
        return {"size": file.stat().st_size, "sha256": hashlib.file_digest(content, "sha256").hexdigest()}


DESCRIPTION = "entry.json"
"""The description of an entry, stored with its files: kind, key, producer, and the size and hash of each file."""


class DamagedEntryError(RunnerError):
    """A file of an entry is missing or differs from what was published."""


class InvalidEntryError(RunnerError):
    """An entry does not have the form in which the runner publishes entries; it is neither used nor removed."""


def _check_relative_name(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or str(path) != name or name in {".", DESCRIPTION} or "\0" in name:
        raise ValueError("must be the path of a file inside the entry")
    return name


class _FileDescription(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


PathPart = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$")]
"""The name of a file or folder that cannot lead out of its folder."""


class EntryDescription(BaseModel):
    """The form of `entry.json`, which other users of a shared cache can write; `upload` exists only at a mirror."""

    model_config = ConfigDict(extra="forbid", strict=True)

    kind: PathPart
    key: PathPart
    made_by: str
    run: str | None
    created: Annotated[AwareDatetime, Field(strict=False)]
    files: dict[Annotated[str, AfterValidator(_check_relative_name)], _FileDescription]
    upload: PathPart | None = None


def parse_description(text: str | bytes, location: str, kind: str, key: str) -> dict[str, Any]:
    """Parse the description of an entry.

    Args:
        text: The content of its `entry.json`.
        location: The folder or URI of the entry, for errors.
        kind: The kind that the location has.
        key: The key that the location has.

    Raises:
        ValueError: The text is not JSON, as after a write that was cut off.
        InvalidEntryError: The text is JSON of another form, names files outside the entry, or belongs to another entry.
    """
    try:
        description = json.loads(text)
        checked = EntryDescription.model_validate(description)
    except RecursionError as error:
        raise InvalidEntryError(f"{location}/{DESCRIPTION}: nested too deeply for a description") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = " ".join(repr(part) for part in first["loc"])
        raise InvalidEntryError(f"{location}/{DESCRIPTION}: {field or 'the content'}: {first['msg']}") from error
    if (checked.kind, checked.key) != (kind, key):
        raise InvalidEntryError(f"{location}/{DESCRIPTION}: describes another entry, {checked.kind}/{checked.key}")
    return dict(description)


def require_regular_file(folder: Path, name: str) -> None:
    """Require that a file of an entry, if it exists, is a regular file inside the folder, not a link or a pipe.

    Raises:
        InvalidEntryError: It is not.
    """
    file = folder / name
    if file.resolve() != folder.resolve() / name or (file.exists() and not file.is_file()):
        raise InvalidEntryError(f"{file}: is not a regular file, or is reached through a link")


def find_damage(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Name the first file that is missing or differs from its description; None if all files are intact.

    Raises:
        InvalidEntryError: A file is a link, or something else that is not a regular file.
        OSError: A file cannot be read.
    """
    for name, expected in files.items():
        require_regular_file(folder, name)
        try:
            actual = describe_file(folder / name)
        except (FileNotFoundError, NotADirectoryError):
            return f"{name} is missing"
        if actual != dict(expected):
            return f"{name} is not what was published ({actual['size']:,} bytes; {expected['size']:,} were published)"
    return None


@dataclass(frozen=True)
class CacheEntry:
    """A place in the cache, which may be empty.

    Attributes:
        folder: The folder of its files.
        kind: The kind of artifact, such as `trained`.
        key: The cache key: a hash of everything that the artifact depends on.
    """

    folder: Path
    kind: str
    key: str

    @property
    def name(self) -> str:
        """The kind and the first digits of the key, for messages."""
        return f"{self.kind}/{self.key[:12]}"

    def read_description(self) -> dict[str, Any] | None:
        """Read `entry.json`: `kind`, `key`, `made_by`, `run`, `created`, `files`; None if there is no such entry.

        Raises:
            DamagedEntryError: The description is not JSON.
            InvalidEntryError: The description has another form; see `parse_description`.
            OSError: The description cannot be read.
        """
        try:
            require_regular_file(self.folder, DESCRIPTION)
            text = (self.folder / DESCRIPTION).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return parse_description(text, str(self.folder), self.kind, self.key)
        except ValueError as error:
            raise DamagedEntryError(f"{self.folder}/{DESCRIPTION}: is not JSON ({error})") from error

    def publish(self, parts: Mapping[str, Path | str], made_by: str, run_id: str | None) -> None:
        """Fill the entry with files and folders atomically; an existing entry stays as it is.

        Args:
            parts: Name in the entry to a file, a folder, or the text of a file. Files are linked, so they must never be
                written to again.
            made_by: The trial, as `experiment/trial`.
            run_id: The run of the trial; see `RunDirectory.id`.

        Raises:
            OSError: The disk is full, or the cache cannot be written to.
        """
        unfinished = self.temporary_path("unfinished")
        try:
            unfinished.mkdir(parents=True)
            for name, part in parts.items():
                _copy_part(part, unfinished / name)
            description = {
                "kind": self.kind,
                "key": self.key,
                "made_by": made_by,
                "run": run_id,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "files": {name: describe_file(file) for name, file in list_files(unfinished)},
            }
            write_json(unfinished / DESCRIPTION, description)
            self.move_into_place(unfinished)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def move_into_place(self, complete: Path) -> None:
        """Rename a complete folder, with its description, to this entry; an existing entry stays as it is."""
        sync_tree(complete)
        try:
            complete.rename(self.folder)
        except OSError:
            if not (self.folder / DESCRIPTION).exists():
                raise

    def link_into(self, folder: Path) -> dict[str, Any] | None:
        """Link the files into a folder and verify them by their hashes.

        Returns:
            The description; None if there is no entry, or if it was removed meanwhile.

        Raises:
            DamagedEntryError: A file is missing or differs from what was published; the message names it.
            InvalidEntryError: The entry has another form, or a file of it is a link.
            OSError: A file cannot be read or written.
        """
        description = self.read_description()
        if description is None:
            return None
        try:
            for name in description["files"]:
                require_regular_file(self.folder, name)
                link_or_copy(self.folder / name, folder / name)
        except FileNotFoundError:
            if self.read_description() is None:
                return None
        damage = find_damage(folder, description["files"])
        if damage is not None:
            raise DamagedEntryError(f"{self.folder}: {damage}")
        sync_tree(folder)  # The caller renames the files into place, and copies may not be on the disk yet.
        with suppress(OSError):  # the time records the last use; without it the entry is still usable
            os.utime(self.folder / DESCRIPTION)
        return description

    def remove(self) -> None:
        """Remove the entry atomically: a concurrent reader finds all of it or nothing."""
        removed = self.temporary_path("removed")
        try:
            self.folder.rename(removed)
        except FileNotFoundError:
            return
        shutil.rmtree(removed, ignore_errors=True)

    def temporary_path(self, purpose: str) -> Path:
        """Return a unique path next to the entry."""
        return self.folder.with_name(f".{self.key[:12]}.{purpose}.{uuid4().hex[:12]}")


def _copy_part(part: Path | str, target: Path) -> None:
    if isinstance(part, str):
        write_text(target, part)
    elif part.is_dir():
        for relative_path, file in list_files(part):
            link_or_copy(file, target / relative_path)
    else:
        link_or_copy(part, target)


LEASE_SECONDS = 60.0
"""How long the holder of a lease on another node may be silent before it counts as dead; one on this node is checked at
once. A slow holder that loses its lease goes on and produces the same artifact: leases save work, and correctness does
not depend on them."""


class LeaseHeldError(Exception):
    """Another trial is producing the entry; the message names it."""


class Lease:
    """The right to produce an entry.

    It uses only files, because NFS does not support the locks of the operating system reliably.
    """

    def __init__(self, entry: CacheEntry, trial: str) -> None:
        """Set the entry to produce and the name of the trial, which is shown to waiting trials."""
        self._trial = trial
        self._holder_file = entry.folder.with_name(f".{entry.key}.maker")
        # The object is reused between attempts, because it observes the heartbeats of another holder.
        self._lease = SoftFileLease(entry.folder.with_name(f".{entry.key}.claim"), lease_duration=LEASE_SECONDS)

    @contextmanager
    def acquire(self) -> Iterator[None]:
        """Hold the lease while the block runs.

        Raises:
            LeaseHeldError: Another live trial holds it.
            OSError: The cache cannot be written to, or the lease of another user cannot be read.
        """
        folder = self._holder_file.parent
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lease.acquire(timeout=0)
        except Timeout as error:
            # An unreadable lease never shows that its holder is dead, so that waiting for it could last forever.
            with suppress(FileNotFoundError), Path(self._lease.lock_file).open("rb"):
                pass
            raise LeaseHeldError(self._holder()) from error
        try:
            write_json(self._holder_file, {"trial": self._trial, "host": host_info()["name"]})
            yield
        finally:
            self._holder_file.unlink(missing_ok=True)
            self._lease.release()

    def _holder(self) -> str:
        try:
            holder = json.loads(self._holder_file.read_text(encoding="utf-8"))
            return f"{holder['trial']} on {holder['host']}"
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return "another trial"
