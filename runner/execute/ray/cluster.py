"""Starts Ray on this machine or joins a cluster, quietly, and says what it has."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

# Ray reads this when it is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# An accelerator that a worker was given none of stays visible: on a CPU it makes no difference, and Ray warns of it.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray
from ray.exceptions import AuthenticationError

from runner.errors import UnmetError
from runner.execute.ray.access import nobody, refuse_missing_token, refuse_silence, refuse_wrong_token, token_advice
from runner.spec.models import ComputeOptions

OBJECT_STORE_BYTES = 200_000_000
"""Only plans and outcomes cross, so a machine of its own needs no large store."""

WORKER_ENVIRONMENT = {
    # Threads that spin while they wait slow each other fivefold where cores are fewer than threads.
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def connect(address: str | None) -> None:
    """Join the cluster at an address, or start Ray on this machine.

    Raises:
        UnmetError: There is no cluster at that address, or it asks for a token that this machine lacks.
    """
    if address:
        refuse_silence(address)
        refuse_missing_token()
        refuse_wrong_token(address)
    own: dict[str, Any] = {} if address else {"object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
    try:
        ray.init(
            address=address or "local",
            logging_level=logging.ERROR,
            log_to_driver=False,
            runtime_env={"env_vars": WORKER_ENVIRONMENT},
            **own,
        )
    except AuthenticationError as error:
        raise UnmetError(token_advice(address or "this machine")) from error
    except (ConnectionError, RuntimeError, ValueError) as error:
        if address is None:
            raise UnmetError(f"Ray does not start on this machine: {error}") from error
        raise UnmetError(nobody(address, str(error))) from error


def nodes() -> list[dict[str, float]]:
    """The resources of each living node, by Ray's names."""
    listed: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in listed if node["Alive"]]


def worker_resources(compute: ComputeOptions, available: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What Ray is asked for, for each worker.

    Without `cpus_per_worker`, the cores of the smallest node are shared by the workers.
    """
    fewest = min((node.get("CPU", 1.0) for node in available), default=1.0)
    cpus = compute.cpus_per_worker or max(1, int(fewest // compute.workers))
    asked: dict[str, float] = {"CPU": float(cpus)}
    if compute.gpus_per_worker:
        asked["GPU"] = compute.gpus_per_worker
    if compute.accelerator:
        asked[f"accelerator_type:{compute.accelerator}"] = 0.001
    return asked


def refuse_unplaceable(compute: ComputeOptions, asked: Mapping[str, float]) -> None:
    """Refuse at once what the cluster can never hold; Ray itself would wait for ever without a word.

    Raises:
        UnmetError: With what is asked for and what each node has.
    """
    available = nodes()
    places = sum(_workers_on(node, asked) for node in available)
    if places < compute.workers:
        have = "; ".join(_described(node) for node in available)
        raise UnmetError(
            f"{compute.workers} worker(s) of {_described(asked)} are asked for, and the cluster holds {places}. "
            f"Its nodes have: {have}"
        )


def _workers_on(node: Mapping[str, float], asked: Mapping[str, float]) -> int:
    return min(int(node.get(name, 0) // amount) for name, amount in asked.items())


def _described(resources: Mapping[str, float]) -> str:
    shown = {name: amount for name, amount in resources.items() if name in {"CPU", "GPU"}}
    types = [name.removeprefix("accelerator_type:") for name in resources if name.startswith("accelerator_type:")]
    return ", ".join([*(f"{amount:g} {name}" for name, amount in shown.items()), *types])


def disconnect() -> None:
    """Leave the cluster; Ray that was started here ends."""
    ray.shutdown()


def remote_options(asked: Mapping[str, float]) -> dict[str, Any]:
    """Phrase the resources of a worker as the options of an actor."""
    special = {name: amount for name, amount in asked.items() if name not in {"CPU", "GPU"}}
    return {"num_cpus": asked["CPU"], "num_gpus": asked.get("GPU", 0), "resources": special}
