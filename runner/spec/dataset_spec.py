"""The spec of a data set: a published corpus, and how `runner build` converts it into a data set."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from runner.spec.experiment_spec import Name, Section, SectionOf, Specification
from runner.stages import FilePath, Options

RESERVED_NAMES = frozenset({"left_out", "annotations"})
"""Names of other files in a data set folder, which a split cannot use."""


class Ratios(Options):
    """A random division of all samples into splits; the corpus's own splits are ignored."""

    ratios: dict[Name, Annotated[float, Field(gt=0)]] = Field(default={"train": 0.7, "test": 0.3})
    """Relative size of each split (the paper uses 7/3). `train` and `test` are required."""
    seed: int = 42
    """Random seed of the division."""
    group_by: Literal["content", "none"] = "content"
    """`content` keeps samples that share an image or a text in one split."""
    stratify: list[Literal["segments", "labels"]] = Field(default=[])
    """Properties whose distribution is kept equal across splits: the number of `segments`, the entity `labels`."""

    @field_validator("ratios")
    @classmethod
    def _check_split_names(cls, ratios: dict[str, float]) -> dict[str, float]:
        if not {"train", "test"} <= set(ratios):
            raise ValueError("train and test are required, such as {train: 0.7, test: 0.3}")
        for reserved in RESERVED_NAMES & set(ratios):
            raise ValueError(f"{reserved!r} is reserved for the file {reserved}.jsonl; choose another split name")
        return ratios


NearDuplicateBits = Annotated[int, Field(ge=0, le=16)] | None
"""Maximum number of bits, of 64, in which the perceptual hashes of two near-duplicate images differ."""


class CropOptions(Options):
    """How segments are cropped from the main images."""

    unusable_images: Literal["refuse", "skip"] = "refuse"
    """What to do with images that are missing, empty, broken, too large to be safe, or of another size than the one
    their boxes were drawn on. `refuse`: stop with an error that counts them by reason. `skip`: leave out their tweets
    and list them in `left_out.jsonl`."""
    min_side: Annotated[int, Field(ge=1)] = 4
    """Minimum width and height of a box inside its image, in pixels. Smaller boxes are left out and listed."""


class DatasetSpec(Specification):
    """A data set to build: import, crop, annotate, review, split, publish."""

    name: Name
    """The data set's name."""
    source: Annotated[Section, SectionOf("source")]
    """The published corpus to read."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Maximum number of tweets, to test a spec: the first ones that have a usable box. None: all."""
    crop: CropOptions = CropOptions()
    """How segments are cropped."""
    annotator: Annotated[Section | None, SectionOf("annotator")] = None
    """Writes the missing image summaries. `none`, or omitted: none are written."""
    publish: Literal["accepted", "everything"] | None = None
    """Samples that are published. `accepted`: those whose summary a reviewer has accepted or edited (`runner review`).
    `everything`: all that no reviewer has rejected. None: `accepted` with an annotator, else `everything`."""
    split: Literal["official"] | Ratios = Ratios()
    """`official`: the corpus's own splits. Otherwise, a random division by ratios."""
    leaks: Literal["refuse", "warn"] = "refuse"
    """What to do if splits share an id, a text or an image. A division with `group_by: content` has no such leaks."""
    near_images: NearDuplicateBits = None
    """Treats near-duplicate images as the same image, both for the division and for leaks: the maximum number of bits,
    of 64, in which their perceptual hashes differ. 4 finds other sizes and qualities of an image. None: only exact
    copies count as the same."""
    license: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+-]*$")] | None = None
    """Licence of the data for the data set card, as the Hugging Face Hub names it: `cc-by-4.0`, `other`."""
    output: FilePath
    """The folder to create."""

    @property
    def waits_for_review(self) -> bool:
        """Whether only samples that a reviewer has accepted are published."""
        return self.publish == "accepted" or (self.publish is None and self.annotator is not None)
