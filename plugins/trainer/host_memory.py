"""The main memory of a training beside that of its processes: checkpoints, and the weights that are saved."""

from __future__ import annotations

from plugins.trainer.model_profile import FLOAT32_BYTES, ModelProfile, count_parameters, count_trainable
from plugins.trainer.step_memory import TrainingSetup, count_float32, master_bytes
from runner.records import HostMemory, Memory


def estimate_host_memory(
    profile: ModelProfile, setup: TrainingSetup, memory: Memory, checkpoint: int, workers: int, *, gpus: bool
) -> HostMemory:
    """Estimate the main memory of a machine with all workers.

    Args:
        profile: The model's profile; with FSDP, that of `profile_model` with `sharded`.
        setup: The settings of the training step.
        memory: The memory of a worker's device at the peak of a step.
        checkpoint: Bytes of the checkpoint of which the workers make a copy; 0 if they make none.
        workers: Number of workers.
        gpus: Whether the workers train on GPUs.
    """
    saved = setup.value_bytes * count_parameters(profile)
    save = _gathered_bytes(profile, setup) if setup.shards(workers) else saved
    weights = 0 if gpus else _converted_bytes(profile, setup, workers)
    training = 0 if gpus else memory.total * workers
    # The C library does not return the memory of a training on CPUs to the system.
    return HostMemory(weights=weights, training=training, checkpoint=checkpoint, save=save + training)


def _gathered_bytes(profile: ModelProfile, setup: TrainingSetup) -> int:
    """Count the bytes of the weights that FSDP gathers to save them, and of their copies in the saved format.

    Trained weights are converted at once. Frozen weights keep their format; those in float32 are copied.
    """
    frozen = count_float32(profile, setup) - count_trainable(profile)
    converted = setup.value_bytes if setup.value_bytes < FLOAT32_BYTES else 0
    return setup.value_bytes * (count_parameters(profile) - frozen) + (FLOAT32_BYTES + converted) * frozen


def _converted_bytes(profile: ModelProfile, setup: TrainingSetup, workers: int) -> int:
    """Count the bytes of the weights that all workers make of those that are mapped from files.

    With DDP these are the weights in float32. With FSDP they are all shards, the vision tower of each worker that
    encodes images outside of the steps, and the weights that are converted before they are sharded, if others keep
    their format.
    """
    num_float32 = count_float32(profile, setup)
    if not setup.shards(workers):
        return FLOAT32_BYTES * num_float32 * workers
    tower = profile.vision.num_parameters if setup.caches_features else 0
    whole = num_float32 if profile.num_half else tower
    return master_bytes(profile, setup) + FLOAT32_BYTES * whole * workers
