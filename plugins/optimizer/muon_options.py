"""Options of the optimizer `muon`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from plugins.optimizer.group_options import AdamWConstants, GroupOptions, ScheduleOptions


class MuonGroupOptions(GroupOptions):
    """A group with its algorithm."""

    algorithm: Literal["adamw", "muon"] = "adamw"
    """`muon` takes matrices alone; embeddings and the head, though matrices, are better left to `adamw` (Jordan et
    al. 2024), and vectors and convolutions must be."""


class MuonOptions(AdamWConstants, ScheduleOptions):
    """Muon (Jordan et al. 2024), which orthogonalises the momentum of matrices, and AdamW for the rest."""

    groups: Annotated[dict[str, MuonGroupOptions], Field(min_length=1)]
    """Groups by name, in order: the first whose pattern matches wins a parameter. A pattern that wins nothing
    and a trainable parameter in no group are errors."""

    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """Nesterov momentum of Muon (Jordan et al. 2024)."""
