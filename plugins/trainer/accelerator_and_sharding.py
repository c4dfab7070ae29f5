"""The accelerator of a worker group, and FSDP2: which layers are sharded, and how full weights are restored."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from accelerate import (
    Accelerator,
    DistributedDataParallelKwargs,
    FullyShardedDataParallelPlugin,
    InitProcessGroupKwargs,
)
from accelerate.parallelism_config import ParallelismConfig
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType, KwargsHandler, fsdp2_prepare_model
from torch import distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy
from torch.distributed.rendezvous import register_rendezvous_handler
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from runner.errors import LostConnectionError, RequirementError


def layer_classes(module: torch.nn.Module) -> list[str]:
    """Return the class names of the layers that FSDP wraps: decoder layers and vision blocks.

    Transformers lists them for each family (`_no_split_modules`); a model need not use all of them.

    Args:
        module: The whole model.

    Returns:
        The classes that the model uses. FSDP gathers one of these layers when it computes, and reshards it afterwards.
    """
    no_split = module._no_split_modules if isinstance(module, PreTrainedModel) else None
    present = {type(submodule).__name__ for submodule in module.modules()}
    return sorted(present & set(no_split or ()))


@dataclass(frozen=True)
class Sharding:
    """How FSDP shards a model.

    Attributes:
        layers: Class names of the layers that FSDP shards, from `layer_classes`.
        size: Number of workers that share one copy of the weights; None for all workers.
        cpu_offload: Whether the shards, their gradients and the optimizer's moments are in main memory.
        reshard_after_forward: Whether a layer's gathered weights are freed until the backward pass.
    """

    layers: tuple[str, ...]
    size: int | None = None
    cpu_offload: bool = False
    reshard_after_forward: bool = True


def sharding_plugin(sharding: Sharding, precision: str) -> FullyShardedDataParallelPlugin:
    """Configure accelerate to shard each of these layers on its own, the embeddings, and all other weights together.

    Args:
        sharding: How to shard.
        precision: With `bf16`, weights are gathered in bfloat16. Each worker's shards, the gradients and their sum over
            workers stay float32.
    """
    # Only memory that is pinned is copied to a GPU while the GPU computes.
    offload = CPUOffloadPolicy(pin_memory=torch.cuda.is_available()) if sharding.cpu_offload else OffloadPolicy()
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        # Each worker reads its shards from the mapped files, so no worker needs to send all weights to the others.
        cpu_ram_efficient_loading=False,
        reshard_after_forward=sharding.reshard_after_forward,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=list(sharding.layers),
        cpu_offload=offload,
        mixed_precision_policy=policy if precision == "bf16" else None,
    )


@torch.no_grad()
def move_and_convert(module: torch.nn.Module, device: torch.device, *, autocast: bool = False) -> None:
    """Move the weights to a device in the format in which they are stored, and convert each to float32 there.

    Args:
        module: The module.
        device: The device.
        autocast: Whether the training uses autocast. Frozen weights that autocast converts in every forward pass then
            stay in their format: the results are the same.
    """
    kept = autocast_weight_ids(module) if autocast else frozenset()
    for parameter in module.parameters():
        if not parameter.is_floating_point():
            continue  # accelerate moves weights in 4 bits together with their scales
        moved = parameter.data.to(device)
        parameter.data = moved if id(parameter) in kept else moved.float()
    _convert_buffers(module)


AUTOCAST_LAYERS = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.Conv3d)
"""Layers whose weights autocast converts. Norms and embeddings compute in the format of their weights."""


def autocast_weight_ids(module: torch.nn.Module) -> frozenset[int]:
    """Return the ids of the frozen weights that only layers use whose weights autocast converts."""
    users: dict[int, list[bool]] = {}
    for layer in module.modules():
        for parameter in layer.parameters(recurse=False):
            is_converted = isinstance(layer, AUTOCAST_LAYERS) and not parameter.requires_grad
            users.setdefault(id(parameter), []).append(is_converted)
    return frozenset(parameter for parameter, conversions in users.items() if all(conversions))


def kept_when_sharded(module: torch.nn.Module) -> frozenset[int]:
    """Return the ids of the weights that keep their format with FSDP: those of `autocast_weight_ids`, or none.

    The other weights are then converted before they are sharded, so that each worker has all of them in float32 for a
    while. Unless they are few, no weight keeps its format: all are sharded first, and all shards are converted.
    """
    kept = autocast_weight_ids(module)
    numbers = {id(parameter): parameter.numel() for parameter in module.parameters()}
    return kept if 2 * sum(numbers[each] for each in kept) > sum(numbers.values()) else frozenset()


@torch.no_grad()
def shard_and_convert(accelerator: Accelerator, module: torch.nn.Module, *, autocast: bool = False) -> None:
    """Shard a module with FSDP2, and convert it to float32; no worker gets a full copy of all weights in float32.

    Args:
        accelerator: An accelerator with the settings of `sharding_plugin`.
        module: The module, with weights in the format in which they are stored, mapped from their files.
        autocast: Whether layers compute in bfloat16. The weights of `kept_when_sharded` then stay in their format.
    """
    kept = kept_when_sharded(module) if autocast else frozenset()
    if kept:
        for parameter in module.parameters():
            if id(parameter) not in kept:
                parameter.data = parameter.data.float()
        _convert_buffers(module)
        fsdp2_prepare_model(accelerator, module)
    else:
        trainable = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
        # Accelerate would convert all trainable weights before it shards them.
        module.requires_grad_(False)
        fsdp2_prepare_model(accelerator, module)
        module.float()
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name in trainable)
    _keep_sharded_in_backward(module)


def _keep_sharded_in_backward(module: torch.nn.Module) -> None:
    """Let FSDP leave embeddings sharded in the backward pass, which needs their gradient, but not their weights."""
    for submodule in module.modules():
        if isinstance(submodule, FSDPModule) and isinstance(submodule, torch.nn.Embedding):
            submodule.set_unshard_in_backward(False)


def _convert_buffers(module: torch.nn.Module) -> None:
    for buffer in module.buffers():
        if buffer.is_floating_point():
            buffer.data = buffer.data.float()


def reshard(module: torch.nn.Module) -> None:
    """Free weights that a forward pass without a backward pass has left gathered."""
    for submodule in module.modules():
        if isinstance(submodule, FSDPModule):
            submodule.reshard()


@contextmanager
def unsharded_weights(module: torch.nn.Module, *, reshard_after_forward: bool = True) -> Iterator[None]:
    """Gather the full weights on every worker, so that forward passes need no communication.

    Args:
        module: The sharded module, after at least one forward pass. All workers must enter together. The module must
            not be moved to another device meanwhile, as that would reshard it.
        reshard_after_forward: See `Sharding`.
    """
    sharded = [submodule for submodule in module.modules() if isinstance(submodule, FSDPModule)]
    for submodule in sharded:
        submodule.set_reshard_after_forward(False, recurse=False)
        submodule.unshard()
    try:
        yield
    finally:
        for submodule in sharded:
            # The root module keeps its own weights gathered between forward and backward pass.
            submodule.set_reshard_after_forward(reshard_after_forward and submodule is not module, recurse=False)
        if isinstance(module, FSDPModule):
            # This reshards, and clears the recorded order of forward passes, which differs between workers here. The
            # next backward pass prefetches layers by that order.
            module.reset_iter_state()


def gather_weights(module: torch.nn.Module, *, keep: bool, dtype: torch.dtype = torch.float32) -> None:
    """Replace sharded weights by full weights on the CPU, in place; all workers must take part.

    Afterwards the module can be saved, but not trained.

    Args:
        module: The whole model.
        keep: Whether this worker keeps the full weights; on the others they stay sharded.
        dtype: The number format in which the model will be saved. Trained weights are converted at once, so that they
            never need memory in float32. Frozen weights and adapters keep their format: frozen weights are compared,
            and adapters are added to them, before the model is saved.
    """
    full_parameters: dict[int, torch.nn.Parameter | None] = {}
    for path, submodule in module.named_modules():
        for name, parameter in submodule.named_parameters(recurse=False):
            if not isinstance(parameter, DTensor):
                continue
            if id(parameter) not in full_parameters:  # tied weights stay tied, and all workers gather them once
                full = parameter.full_tensor().detach()
                is_final = parameter.requires_grad and ADAPTER not in name and f".{ADAPTER}" not in path
                full_parameters[id(parameter)] = (
                    _on_cpu(full.to(dtype) if is_final else full, parameter) if keep else None
                )
            if keep:
                setattr(submodule, name, full_parameters[id(parameter)])


def _on_cpu(full: torch.Tensor, parameter: torch.Tensor) -> torch.nn.Parameter:
    """Return a parameter on the CPU that is trainable if another one is."""
    return torch.nn.Parameter(full.cpu(), requires_grad=parameter.requires_grad)


ADAPTER = "lora_"
"""The beginning of the names that peft gives to adapters."""

LOOPBACK = "127.0.0.1"
"""`MASTER_ADDR` of a group of workers on one machine."""
PENDING_CONNECTIONS = 1024


def _meet_on_loopback(_url: str, timeout: timedelta, **_options: object) -> Iterator[tuple[TCPStore, int, int]]:
    """Let the workers of one machine meet where other machines cannot connect; see `torch.distributed.rendezvous`.

    By default, the store of rank 0 accepts connections of all machines, and it knows no password.
    """
    rank, num_workers, port = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    descriptor = None
    if rank == 0:
        listener = socket.socket()
        # The launch keeps the port bound, without listening, until the workers meet.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, port))
        listener.listen(PENDING_CONNECTIONS)
        descriptor = listener.detach()
    yield TCPStore(LOOPBACK, port, num_workers, rank == 0, timeout, master_listen_fd=descriptor), rank, num_workers


register_rendezvous_handler("loopback", _meet_on_loopback)  # type: ignore[no-untyped-call]


CHECKED_SIZES = (1, 2**20)
"""Elements per worker of the tensors that `check_order` exchanges. NCCL selects its algorithm by the size."""


def check_order(device: torch.device) -> None:
    """Check that collective operations deliver every worker's tensor at the place of its rank.

    FSDP relies on this order; a shard at a wrong place would spoil the weights without any error. NCCL had such an
    error in all-gather and reduce-scatter with NVLS (https://github.com/NVIDIA/nccl/issues/1906).

    Args:
        device: The device of this worker. All workers must call this function together.

    Raises:
        RequirementError: A tensor arrived at a wrong place.
    """
    rank, num_workers = distributed.get_rank(), distributed.get_world_size()
    for size in CHECKED_SIZES:
        sent = [torch.full((size,), float(place), device=device) for place in range(num_workers)]
        gathered = [torch.empty_like(sent[0]) for _ in sent]
        distributed.all_gather(gathered, sent[rank])
        scattered = torch.empty_like(sent[0])
        distributed.reduce_scatter(scattered, sent)
        results = {
            "all_gather": (gathered, sent),
            "reduce_scatter": ([scattered], [sent[rank] * num_workers]),
        }
        for operation, (received, expected) in results.items():
            if not all(map(torch.equal, received, expected)):
                first, right = ([tensor[0].item() for tensor in tensors] for tensors in (received, expected))
                raise RequirementError(
                    f"{operation} of tensors with {size:,} elements gave worker {rank} of {num_workers} on "
                    f"{socket.gethostname()} the values {first} instead of {right}: training would spoil the weights. "
                    "Install a newer NCCL, or set NCCL_NVLS_ENABLE=0 where Ray is started, which disables NVLS"
                )


def use_shard_groups(accelerator: Accelerator, size: int) -> None:
    """Let groups of workers with successive ranks each shard one copy of the weights (HSDP).

    Args:
        accelerator: A new accelerator for FSDP.
        size: Number of workers of a group; a divisor of the number of workers.
    """
    parallelism = ParallelismConfig(dp_replicate_size=accelerator.num_processes // size, dp_shard_size=size)
    accelerator.state.parallelism_config = parallelism
    accelerator.state.device_mesh = parallelism.get_device_mesh(accelerator.device.type)


@contextmanager
def _gloo_for_offload(sharding: Sharding | None) -> Iterator[None]:
    """Let accelerate add gloo to NCCL, which cannot exchange tensors in main memory."""
    # Accelerate stores its choice of FSDP in the environment, where the next trial would read it.
    os.environ.pop("ACCELERATE_USE_FSDP", None)
    if sharding is None or not sharding.cpu_offload:
        yield
        return
    os.environ.update(ACCELERATE_USE_FSDP="true", FSDP_OFFLOAD_PARAMS="true")
    try:
        yield
    finally:
        os.environ.pop("FSDP_OFFLOAD_PARAMS", None)


def make_accelerator(precision: str, sharding: Sharding | None = None, timeout: float = 3600) -> Accelerator:
    """Make an accelerator for this process, or for its rank in a worker group that is initialised already.

    Accelerate keeps its settings for the life of the process, so they are reset: a process may train several trials.
    DDP must expect unused parameters, as a batch without images does not use the vision tower.

    Args:
        precision: `fp32` or `bf16`.
        sharding: How FSDP shards the model; None for DDP.
        timeout: Seconds that a worker waits for the others, here and in each collective operation.

    Raises:
        LostConnectionError: The other workers did not come in time.
        RequirementError: Collective operations of the workers return wrong results.
    """
    AcceleratorState._reset_state(reset_partial_state=True)
    plugin = sharding_plugin(sharding, precision) if sharding else None
    parallel = DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
    init_method = "loopback://" if os.environ.get("MASTER_ADDR") == LOOPBACK else None
    group = InitProcessGroupKwargs(init_method=init_method, timeout=timedelta(seconds=timeout))
    handlers: list[KwargsHandler] = [parallel, group]
    try:
        with _gloo_for_offload(sharding):
            accelerator = Accelerator(
                fsdp_plugin=plugin,
                cpu=not torch.cuda.is_available(),
                mixed_precision="bf16" if precision == "bf16" else "no",
                kwargs_handlers=handlers,
            )
    except distributed.DistError as error:
        raise LostConnectionError(
            f"not all workers of the trial were ready within {timeout:g} seconds ({error}); if the first worker is "
            "still checking the samples, increase trainer.ddp_timeout"
        ) from error
    if plugin is not None and accelerator.distributed_type is DistributedType.MULTI_CPU:
        # Accelerate enables FSDP only on GPUs; on CPUs the state must be set. The code that runs is the same.
        PartialState().distributed_type = accelerator.state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = plugin
    if sharding is not None and sharding.size is not None and sharding.size < accelerator.num_processes:
        use_shard_groups(accelerator, sharding.size)
    if accelerator.num_processes > 1:
        check_order(accelerator.device)
    return accelerator
