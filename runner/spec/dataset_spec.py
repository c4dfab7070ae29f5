"""The spec of a data set: a published corpus, and how `runner build` converts it into a data set."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from runner.spec.experiment_spec import Section, SectionOf, Specification
from runner.stages import FilePath, Name, NearDuplicateBits, Options, Ratios


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
