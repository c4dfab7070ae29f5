"""The main memory of a training beside that of its processes: checkpoints, and the weights that are saved."""

from __future__ import annotations

from plugins.trainer.step_memory import (
    FLOAT32_BYTES,
    ModelProfile,
    TrainingSetup,
    count_parameters,
    count_trainable,
)
from runner.records import HostMemory, Memory


def estimate_host_memory(
    profile: ModelProfile, setup: TrainingSetup, memory: Memory, checkpoint: int, workers: int, *, gpus: bool
) -> HostMemory:
    """Estimate the main memory of a machine with all workers.

    Args:
        profile: The model's profile.
        setup: The settings of the training step.
        memory: The memory of a worker's device at the peak of a step.
        checkpoint: Bytes of the checkpoint of which the workers make a copy; 0 if they make none.
        workers: Number of workers.
        gpus: Whether the workers train on GPUs.
    """
    trained, saved = count_trainable(profile), setup.value_bytes * count_parameters(profile)
    frozen = count_parameters(profile) - trained
    # FSDP gathers trained weights as they are saved, and frozen ones in float32, of which it saves a copy.
    converted = setup.value_bytes if setup.value_bytes < FLOAT32_BYTES else 0
    gathered = setup.value_bytes * trained + (FLOAT32_BYTES + converted) * frozen
    save = gathered if setup.strategy == "fsdp" and workers > 1 else saved
    weights = 0 if gpus else _converted_bytes(profile, setup, workers)
    training = 0 if gpus else memory.total * workers
    # The C library does not return the memory of a training on CPUs to the system.
    return HostMemory(weights=weights, training=training, checkpoint=checkpoint, save=save + training)


def _converted_bytes(profile: ModelProfile, setup: TrainingSetup, workers: int) -> int:
    """Count the bytes of the weights that all workers convert to float32, beside those that stay mapped from files.

    With FSDP or in float32, these are all weights. Otherwise frozen matrices stay as they are stored, except a vision
    tower that encodes images outside of the steps.
    """
    if setup.strategy == "fsdp" and workers > 1:
        return FLOAT32_BYTES * count_parameters(profile)
    if setup.value_bytes == FLOAT32_BYTES:
        return FLOAT32_BYTES * count_parameters(profile) * workers
    embeddings = 0 if profile.embeddings_are_trainable else profile.embeddings
    tower = profile.vision.num_parameters if setup.caches_features else 0
    return FLOAT32_BYTES * (count_trainable(profile) + embeddings + tower) * workers
