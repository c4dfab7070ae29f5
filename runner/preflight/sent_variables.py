"""Finds which environment variables a spec sends to which address, and warns about those that look wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from runner.errors import SpecError, SpecPath, dotted_path
from runner.redaction import is_loopback, redact_passwords
from runner.spec.check import check_spec
from runner.spec.experiment_spec import ExperimentSpec, Section, Specification
from runner.spec.load import LoadedSpec
from runner.spec.variants import SweepVariants
from runner.spec.yaml_layers import Tree
from runner.stages import LocatedStr

SERVICES: Mapping[str, Sequence[str]] = {
    "ANTHROPIC": ("anthropic.com",),
    "AWS": ("amazonaws.com",),
    "AZURE": ("azure.com",),
    "CEREBRAS": ("cerebras.ai",),
    "CODECOV": (),
    "COHERE": ("cohere.com", "cohere.ai"),
    "COMET": (),
    "DASHSCOPE": ("aliyuncs.com",),
    "DATABRICKS": ("databricks.com", "azuredatabricks.net"),
    "DEEPSEEK": ("deepseek.com",),
    "DOCKER": (),
    "FIREWORKS": ("fireworks.ai",),
    "GCP": ("googleapis.com",),
    "GEMINI": ("googleapis.com",),
    "GH": ("github.com", "github.ai"),
    "GITHUB": ("github.com", "github.ai"),
    "GITLAB": (),
    "GOOGLE": ("googleapis.com",),
    "GROQ": ("groq.com",),
    "HF": ("huggingface.co", "hf.co"),
    "HUGGING": ("huggingface.co", "hf.co"),
    "HUGGINGFACE": ("huggingface.co", "hf.co"),
    "HUGGINGFACEHUB": ("huggingface.co", "hf.co"),
    "KUBE": (),
    "MISTRAL": ("mistral.ai",),
    "MLFLOW": (),
    "MYSQL": (),
    "NPM": (),
    "NVIDIA": ("nvidia.com",),
    "OPENAI": ("openai.com",),
    "OPENROUTER": ("openrouter.ai",),
    "PGPASSWORD": (),
    "PYPI": (),
    "RAY": (),
    "REPLICATE": ("replicate.com",),
    "S3": (),
    "SLURM": (),
    "SSH": (),
    "TOGETHER": ("together.ai", "together.xyz"),
    "TWINE": (),
    "WANDB": (),
    "XAI": ("x.ai",),
}
"""The first word of variables that belong to a service, and the domains to which their values may go."""

SECRET = re.compile(r"(?i)(^|_)(API|APIKEY|KEY|KEYS|TOKEN|SECRET|PASSWORD|PASSWD|PWD|CREDENTIALS?)(_|$)|^PGPASSWORD$")
"""Matches names of variables that usually hold a secret."""

KEY_NAME = re.compile(r"(?i)KEY|TOKEN|SECRET|PASS|PWD|AUTH|CRED|BEARER")
"""Matches names of variables that may hold the key of a server; others, such as HOME, hold something else."""

SECTIONS_OF_PROMPTS = frozenset({"generator", "annotator", "adapter", "sweep"})
"""Sections whose texts go to the server that writes answers."""


@dataclass(frozen=True)
class SentVariable:
    """An environment variable whose value leaves this machine, or is stored although it may be secret.

    Attributes:
        path: Where the spec names the variable.
        variable: Its name.
        address: The address to which its value is sent; None if it is only stored.
        warning: Why this may be a mistake; None if nothing is suspicious.
    """

    path: str
    variable: str
    address: str | None
    warning: str | None

    def as_json(self) -> dict[str, str | None]:
        """Return the form of `variables` in `plan --json`."""
        return {"path": self.path, "variable": self.variable, "address": self.address, "warning": self.warning}

    def __str__(self) -> str:
        """Describe in a line what is sent where."""
        target = "is stored in plans" if self.address is None else f"is sent to {self.address}"
        return f"the value of the environment variable {self.variable} ({self.path}) {target}"


def find_sent_variables(loaded: LoadedSpec[Any]) -> list[SentVariable]:
    """List the variables whose values a launch or build of a spec sends, with all variants of a sweep."""
    found: dict[SentVariable, None] = {}
    addresses: dict[str, dict[str, None]] = {}
    for spec in _variants(loaded):
        for section in _sections(spec):
            address = section.options.remote_address
            if address is None:
                continue
            address = redact_passwords(address)
            kind = "tracker" if section.stage == "tracker" else "server"
            addresses.setdefault(kind, {})[address] = None
            for variable in section.options.key_variables:
                doubt = None if kind == "tracker" else _doubt(variable, address)
                found[SentVariable(section.stage, variable, address, doubt)] = None
    for spec_path, variable in _variables_in(loaded.tree.value, ()):
        stage = str(spec_path[0])
        kind = "tracker" if stage == "tracker" else "server" if stage in SECTIONS_OF_PROMPTS else ""
        is_secret = SECRET.search(variable) is not None
        suspicious = is_secret and kind != "tracker"
        # A tracker gets every option of the plan.
        targets = {**addresses.get(kind, {}), **addresses.get("tracker", {})}
        for address in targets or ([None] if is_secret else []):
            warning = "a secret does not belong into a spec: plans and records store this value" if suspicious else None
            found[SentVariable(dotted_path(spec_path), variable, address, warning)] = None
    return list(found)


def report_sent_variables(loaded: LoadedSpec[Any], say: Callable[[str], None], warn: Callable[[str], None]) -> None:
    """Say what `find_sent_variables` finds, before anything is sent, and warn about what looks wrong."""
    for sent in find_sent_variables(loaded):
        say(str(sent))
        if sent.warning is not None:
            warn(f"{sent.variable}: {sent.warning}")


def without_sweep(loaded: LoadedSpec[ExperimentSpec], smoke_spec: ExperimentSpec) -> LoadedSpec[ExperimentSpec]:
    """Return a spec of which only the smoke run is executed, so that no arm of its sweep sends anything."""
    return replace(loaded, spec=smoke_spec.model_copy(update={"sweep": None}))


def _sections(spec: Specification) -> Iterator[Section]:
    for name in spec.stages():
        value = getattr(spec, name)
        yield from (part for part in (value if isinstance(value, tuple) else (value,)) if part is not None)


def _variants(loaded: LoadedSpec[Any]) -> Iterator[Specification]:
    """Yield the spec, and the specs of a sweep that change a section with an address; invalid ones are never run."""
    yield loaded.spec
    sweep = loaded.spec.sweep if isinstance(loaded.spec, ExperimentSpec) else None
    if sweep is None:
        return
    variants = SweepVariants(loaded.tree, sweep)
    for arm in variants.arms:
        base = variants.base_tree(arm)
        yield from _checked(base)
        for name, dimension in sweep.space.items():
            if name.partition(".")[0] in {"generator", "tracker"}:
                for value in dimension.labelled_values:  # A number is neither an address nor a name.
                    yield from _checked(variants.set_parameter(base, name, value))


def _checked(tree: Tree) -> Iterator[ExperimentSpec]:
    with suppress(SpecError):
        yield check_spec(tree, ExperimentSpec)


def _variables_in(value: Any, path: SpecPath) -> Iterator[tuple[SpecPath, str]]:
    """Yield the variables that `${env:NAME}` has filled into the values of a spec, with their paths."""
    if isinstance(value, LocatedStr):
        yield from ((path, variable) for variable in value.variables)
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _variables_in(item, (*path, key))


def _doubt(variable: str, address: str) -> str | None:
    """Say why the value of a variable may not be meant for an address; None if nothing is suspicious."""
    parts = urlsplit(address)
    host = (parts.hostname or "").rstrip(".")
    domains = SERVICES.get(variable.upper().partition("_")[0])
    if domains is not None and not any(host == domain or host.endswith(f".{domain}") for domain in domains):
        return (
            f"its name is that of another service than {host}; name the variable with the key for {host}, or write "
            "null for a server without keys"
        )
    if not KEY_NAME.search(variable):
        return f"its name does not say that it holds a key; name the variable with the key for {host}, such as CHAT_KEY"
    if parts.scheme == "http" and not is_loopback(host):
        return f"the connection to {host} is not encrypted (http)"
    return None
