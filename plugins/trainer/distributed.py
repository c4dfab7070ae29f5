"""The accelerator of a worker group, and FSDP2: which layers are sharded, and how the whole weights come back."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, FullyShardedDataParallelPlugin
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel


def layer_classes(module: torch.nn.Module) -> list[str]:
    """Name the classes of the layers that stay in one piece: decoder layers and vision blocks.

    Transformers lists them for each family (`_no_split_modules`), some of which a model may do without.

    Args:
        module: The whole model.

    Returns:
        Those that the model has; each of their layers is gathered when it computes and divided again after.
    """
    named = module._no_split_modules if isinstance(module, PreTrainedModel) else None
    present = {type(part).__name__ for part in module.modules()}
    return sorted(present & set(named or ()))


def sharding_plugin(layers: Sequence[str], precision: str) -> FullyShardedDataParallelPlugin:
    """Tell accelerate to divide the weights of these layers one by one, and what remains together.

    Args:
        layers: From `layer_classes`.
        precision: With `bf16` weights are gathered in bfloat16; what each worker keeps, the gradients and their sum
            over workers stay float32.
    """
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=list(layers),
        mixed_precision_policy=policy if precision == "bf16" else None,
    )


def divide_again(module: torch.nn.Module) -> None:
    """Free what a forward pass without a backward pass has left gathered, so that parameters are the divided ones."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


@contextmanager
def undivided(module: torch.nn.Module) -> Iterator[None]:
    """Let every worker have the whole weights for a while, so that none waits for another in its forward passes.

    Args:
        module: The one that was divided, through which a forward pass has gone; all workers must enter together. It
            must not be moved meanwhile, which would divide it again.
    """
    parts = [part for part in module.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            # What is in no layer stays whole between forward and backward pass.
            part.set_reshard_after_forward(part is not module, recurse=False)
        if isinstance(module, FSDPModule):
            # It divides again, and forgets the order of the passes, by which the workers' next backward pass gathers
            # layers ahead: it was another on each.
            module.reset_iter_state()


def gather(module: torch.nn.Module, *, keep: bool) -> None:
    """Put whole weights on the CPU in the place of divided ones; in place, and all workers must take part.

    Afterwards the module can be saved, not trained.

    Args:
        module: The whole model.
        keep: Whether this worker keeps the whole; the others leave it to that one.
    """
    whole: dict[int, torch.nn.Parameter] = {}
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            if not isinstance(parameter, DTensor):
                continue
            if id(parameter) not in whole:  # tied weights stay tied
                full = parameter.full_tensor().detach()
                if not keep:
                    continue
                whole[id(parameter)] = torch.nn.Parameter(full.cpu(), requires_grad=parameter.requires_grad)
            setattr(part, name, whole[id(parameter)])


def make_accelerator(precision: str, divided: Sequence[str] = ()) -> Accelerator:
    """Make an accelerator for this process, or for its place in a worker group that is initialised already.

    Accelerate keeps its settings as long as the process lives; one that trains a trial after another needs
    them anew. Data parallelism must expect that a batch of text alone leaves the vision tower of a worker
    unused.

    Args:
        precision: `fp32` or `bf16`.
        divided: Classes of the layers whose weights the workers divide among them; none for whole weights on each.
    """
    AcceleratorState._reset_state(reset_partial_state=True)
    # Accelerate leaves a trial's choice in the environment, where the next one would find it.
    os.environ.pop("ACCELERATE_USE_FSDP", None)
    plugin = sharding_plugin(divided, precision) if divided else None
    accelerator = Accelerator(
        fsdp_plugin=plugin,
        cpu=not torch.cuda.is_available(),
        mixed_precision="bf16" if precision == "bf16" else "no",
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)],
    )
    if plugin is not None and accelerator.distributed_type is DistributedType.MULTI_CPU:
        # Accelerate divides weights on GPUs alone unless it is told that this is such a group; the code is the same.
        PartialState().distributed_type = accelerator.state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = plugin
    return accelerator
