"""The spec of a data set: a published corpus, and how `runner build` converts it into a data set."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from runner.spec.experiment_spec import Section, SectionOf, Specification
from runner.stages import FilePath, Name, NearDuplicateBits, Options, Ratios


class CropOptions(Options):
    """How segments are cropped from the main images."""

    unusable_images: Literal["refuse", "skip"] = "refuse"
    """What to do with unusable images: images that are missing, empty, broken, too large to be safe, or of another size
    than the image on which the boxes were drawn. `refuse`: stop with an error that counts these images by reason.
    `skip`: leave out their tweets and list the tweets in `left_out.jsonl`."""
    min_side: Annotated[int, Field(ge=1)] = 4
    """Minimum width and height of a box inside its image, in pixels. Smaller boxes are left out and listed in
    `left_out.jsonl`."""


class DatasetSpec(Specification):
    """A data set to build: import, crop, annotate, review, split, publish."""

    name: Name
    """The data set's name."""
    source: Annotated[Section, SectionOf("source")]
    """The published corpus to read."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Maximum number of tweets, to test a spec: the first tweets that have a usable box are used. Null: all tweets."""
    crop: CropOptions = CropOptions()
    """How segments are cropped."""
    annotator: Annotated[Section | None, SectionOf("annotator")] = None
    """The plugin that writes missing image summaries. If this section is `none` or omitted, no summaries are
    written."""
    publish: Literal["accepted", "everything"] | None = None
    """Samples that are published. `accepted`: samples whose summary a reviewer has accepted or edited (`runner
    review`). `everything`: all samples that no reviewer has rejected. Null: `accepted` with an annotator, otherwise
    `everything`."""
    split: Literal["official"] | Ratios = Ratios()
    """`official`: the splits of the corpus. A section with ratios: a random division of all samples."""
    leaks: Literal["refuse", "warn"] = "refuse"
    """What to do if splits share an id, a text or an image. `refuse`: stop with an error. `warn`: print a warning. A
    random division with `group_by: content` has no such leaks."""
    near_images: NearDuplicateBits = None
    """Treat near-duplicate images as the same image, both for the division and for leaks: the maximum number of bits,
    of 64, in which the perceptual hashes of two such images differ. With 4, other sizes and qualities of an image count
    as the same image. Null: only exact copies count as the same image."""
    license: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+-]*$")] | None = None
    """Licence of the data, for the data set card. Use a licence name of the Hugging Face Hub, such as `cc-by-4.0` or
    `other`."""
    output: FilePath
    """The folder of the data set, which the build creates."""

    @property
    def waits_for_review(self) -> bool:
        """Whether only samples that a reviewer has accepted are published."""
        return self.publish == "accepted" or (self.publish is None and self.annotator is not None)
