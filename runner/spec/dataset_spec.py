"""What a data-set spec holds: a published corpus, and how it becomes a data set."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from runner.spec.experiment_spec import Name, OfStage, Section, Specification
from runner.stages import FilePath, Options

RESERVED = frozenset({"left_out", "annotations"})
"""What stands beside the splits in a data set, so that no split has its name."""


class Ratios(Options):
    """A division of all samples at random, whatever splits they come with."""

    ratios: dict[Name, Annotated[float, Field(gt=0)]] = Field(default={"train": 0.7, "test": 0.3})
    """Share of each split (the paper's 7/3); `train` and `test` are needed."""
    seed: int = 42
    """Another seed is another division."""
    group_by: Literal["content", "none"] = "content"
    """`content` keeps samples that share an image or a text in one split."""
    stratify: list[Literal["segments", "labels"]] = Field(default=[])
    """Of what each split is to have its share: of samples with each number of segments, of those with each label."""

    @field_validator("ratios")
    @classmethod
    def _train_and_test(cls, ratios: dict[str, float]) -> dict[str, float]:
        if not {"train", "test"} <= set(ratios):
            raise ValueError("name at least train and test, such as {train: 0.7, test: 0.3}")
        for taken in RESERVED & set(ratios):
            raise ValueError(f"{taken}.jsonl is no split in a data set; name this split otherwise")
        return ratios


NearImages = Annotated[int, Field(ge=0, le=16)] | None
"""In how many bits, of 64, the perceptual hashes of two images may differ for them to count as one."""


class CropOptions(Options):
    """How segments are cut from the main images."""

    unusable_images: Literal["refuse", "skip"] = "refuse"
    """What to do where an image is missing, empty, broken, of another shape than its boxes were drawn on, or too
    large to be safe: refuse to build, saying how many and why, or leave its tweets out and list them."""
    min_side: Annotated[int, Field(ge=1)] = 4
    """Pixels; a box that is smaller inside its image, in width or height, is left out and listed."""


class DatasetSpec(Specification):
    """A data set to be built: import, crop, annotate, review, split, publish."""

    name: Name
    """The data set's name."""
    source: Annotated[Section, OfStage("source")]
    """The published corpus."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """At most so many tweets, the first ones with a usable box, to try a spec on a few; none: all."""
    crop: CropOptions = CropOptions()
    """How segments are cut."""
    annotator: Annotated[Section | None, OfStage("annotator")] = None
    """Who writes the summary of each image that comes without one; `none`, or left out: nobody."""
    publish: Literal["accepted", "everything"] | None = None
    """Whether each sample waits until a reviewer has accepted or edited its summary (`runner review`), or only what a
    reviewer rejected is left out. None: `accepted` where there is an annotator."""
    split: Literal["official"] | Ratios = Ratios()
    """The corpus's own splits, or a division by ratios."""
    leaks: Literal["refuse", "warn"] = "refuse"
    """What to do where splits share an id, a text or an image; a division that groups by content has none."""
    near_images: NearImages = None
    """Images that look alike count as the same for the division and for leaks: the most bits, of 64, in which their
    perceptual hashes differ (4 finds other sizes and qualities of a picture); none: only exact copies do."""
    license: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+-]*$")] | None = None
    """For the card: the data's licence as the Hugging Face hub calls it, such as `cc-by-4.0`, or `other`."""
    output: FilePath
    """The folder to make."""

    @property
    def waits_for_review(self) -> bool:
        """Whether nothing is published that nobody has accepted."""
        return self.publish == "accepted" or (self.publish is None and self.annotator is not None)
