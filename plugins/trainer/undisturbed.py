"""Lets something else compute with a model in the middle of its training, of which no trace is left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from plugins.trainer.state import random_states, set_random_states


@contextmanager
def undisturbed(module: torch.nn.Module) -> Iterator[None]:
    """Put a module and this process's random numbers back to what they were.

    Generating sets each part's mode, and families leave in their parts what the next token needs, such as
    `rope_deltas`. Weights are not put back.
    """
    random, parts = random_states(), list(module.modules())
    attributes = [dict(vars(part)) for part in parts]
    buffers = [dict(part.named_buffers(recurse=False)) for part in parts]
    try:
        yield
    finally:
        for part, own, held in zip(parts, attributes, buffers, strict=True):
            vars(part).clear()
            vars(part).update(own)
            for name, buffer in held.items():
                setattr(part, name, buffer)
        set_random_states(random)
