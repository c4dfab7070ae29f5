"""The spec of a data set: a published corpus, and how `runner build` converts it into a data set."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from runner.spec.experiment_spec import Section, SectionOf, Specification
from runner.stages import FilePath, Name, NearDuplicateBits, Options, Ratios, SourceOptions

Keep = Literal["grounded", "all"]
"""The tweets of a corpus that become samples: those with a usable box of an entity, or all."""


class CropOptions(Options):
    """How segments are cropped from the main images."""

    unusable_images: Literal["refuse", "skip"] = "refuse"
    """What the build does with unusable images: images that are missing, empty, broken, too large to be safe, or of
    another aspect ratio than the image on which the boxes were drawn. `refuse`: it stops with an error that counts
    these images. `skip`: it leaves out their tweets and lists these tweets in `left_out.jsonl`."""
    min_side: Annotated[int, Field(ge=1)] = 4
    """Minimum width and height of a box inside its image, in pixels. The build leaves out smaller boxes, and with
    `keep: grounded` also tweets without any other box, and lists both in `left_out.jsonl`."""
    outside_boxes: Literal["refuse", "skip"] = "refuse"
    """What the build does with boxes of which less than half is inside the image, as of boxes in another unit or of
    another image. `refuse`: it stops with an error that lists them. `skip`: it leaves out these boxes and lists them in
    `left_out.jsonl`. The build clips all other boxes to the image."""


class DatasetSpec(Specification):
    """A data set to build: import, crop, annotate, review, split, publish."""

    name: Name
    """The data set's name."""
    source: Annotated[Section, SectionOf("source")]
    """The corpus to read: a published corpus, or your own samples."""
    keep: Keep = "grounded"
    """Which tweets the data set contains. `grounded`: those with a usable box of one of their entities, as in the paper
    on M-MRE. `all`: all tweets, as benchmarks of GMNER count them, also those without an entity or a box."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Maximum number of tweets, to test a spec: the build uses the first tweets that `keep` selects. Null: all
    tweets."""
    crop: CropOptions = CropOptions()
    """How segments are cropped."""
    annotator: Annotated[Section | None, SectionOf("annotator")] = None
    """The plugin that writes missing image summaries. If this section is `none` or omitted, no summaries are
    written."""
    publish: Literal["accepted", "everything"] | None = None
    """Which samples the build publishes. `accepted`: samples whose summary a reviewer has accepted or edited (`runner
    review`). `everything`: all samples that no reviewer has rejected. Null: `accepted` with an annotator, otherwise
    `everything`."""
    split: Literal["official"] | Ratios = Ratios()
    """`official`: use the splits of the corpus. A section with ratios: divide all samples at random."""
    leaks: Literal["refuse", "warn"] = "refuse"
    """What to do if splits share an id, a text or an image. `refuse`: stop with an error. `warn`: print a warning. A
    random division with `group_by: content` has no such leaks."""
    near_images: NearDuplicateBits = None
    """Two images also count as the same image if their perceptual hashes (64 bits each) differ in at most this number
    of bits, both for `leaks` and for `split`. With 4, copies of an image in other sizes and qualities count as the same
    image. Null: only exact copies count as the same image."""
    license: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+-]*$")] | None = None
    """Licence of the data, for the data set card. Use a licence name of the Hugging Face Hub, such as `cc-by-4.0` or
    `other`."""
    output: FilePath
    """The folder of the data set, which the build creates."""

    @model_validator(mode="after")
    def _keeps_something(self) -> Self:
        options = self.source.options
        if self.keep == "grounded" and isinstance(options, SourceOptions) and not options.has_boxes:
            raise ValueError(f"keep: the source {self.source.type} has no boxes; write keep: all")
        return self

    @property
    def waits_for_review(self) -> bool:
        """Whether only samples that a reviewer has accepted are published."""
        return self.publish == "accepted" or (self.publish is None and self.annotator is not None)
