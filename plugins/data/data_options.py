"""Options of the data stages `mmre` and `synthetic`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from runner.stages import DataOptions, FilePath, NearDuplicateBits, Options, OutsideFingerprint, Ratios


class MmreOptions(DataOptions):
    """A data-set folder, which `runner build` or `runner import` has written."""

    path: Annotated[FilePath, OutsideFingerprint()]
    """Path of the data-set folder."""
    split: Literal["as_built"] | Ratios = "as_built"
    """`as_built`: use the splits of the data set. A section with ratios: divide all samples into new splits."""
    leaks: Literal["refuse", "warn"] = "refuse"
    """What to do if splits share an id, a text or an image. `refuse`: stop with an error. `warn`: print a warning."""
    near_images: NearDuplicateBits = None
    """Two images also count as the same image if their perceptual hashes (64 bits each) differ in at most this number
    of bits: for `leaks`, for `split`, for the validation split and for few-shot examples. Default: only exact copies
    count as the same image. If this option is set, every image is read whenever the data set is loaded."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Maximum number of samples in each split: only the first samples are used. Default: all samples."""

    @property
    def max_hash_distance(self) -> int | None:
        """The value of `near_images`."""
        return self.near_images

    def smoke(self) -> Mapping[str, Any]:
        """Use a few samples of the folder, or generated ones if the folder does not exist."""
        if (self.path / "dataset.json").is_file():
            return {"limit": 8}
        return {"type": "synthetic", "train": 12, "test": 4}


NumShown = Annotated[int, Field(ge=1, le=3)]
"""Number of entities in an image."""


SymbolSide = Annotated[int, Field(ge=4)]
"""Side of a symbol in pixels."""


class SyntheticOptions(Options):
    """Generated M-MRE data: tweets about named entities, with images that show entities as coloured symbols.

    By default, only the image of a segment tells which entity the segment shows; see `match_evidence`. The names come
    from a closed list. With `unseen_name_ratio` at 0, a model can therefore memorize the entities, and the test split
    does not test unseen names.
    """

    former_names: ClassVar[Mapping[str, str]] = {
        "new_names": "unseen_name_ratio",
        "things": "entities_per_label",
        "shown": "entities_per_image",
        "matched": "segmented_ratio",
    }

    path: Annotated[FilePath, OutsideFingerprint()] = Path("data/synthetic")
    """Folder for generated data sets. Each combination of options has its own subfolder."""
    train: Annotated[int, Field(ge=1)] = 3000
    """Number of training samples."""
    test: Annotated[int, Field(ge=1)] = 600
    """Number of test samples. No text of a test sample occurs in the training split."""
    seed: int = 0
    """Seed of the names, symbols, texts and images."""
    unseen_name_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability with which each entity of a test sample has a name that does not occur in the training split."""
    entities_per_label: Annotated[int, Field(ge=1, le=4)] = 4
    """Number of entities of each label in the training split. With fewer entities, a model learns faster."""
    entities_per_image: tuple[NumShown, NumShown] = (2, 3)
    """Minimum and maximum number of entities in an image. If an image shows one entity, the text names more entities,
    see `max_entities_per_text`. Then only the image, not the order of segments, tells which of them is shown."""
    max_entities_per_text: Annotated[int, Field(ge=1, le=4)] = 3
    """Maximum number of entities in a text. If an image shows one entity, the text always names this many."""
    match_evidence: Literal["image", "summary", "text"] = "image"
    """What tells which entity a segment shows. `image`: the symbol in the segment. `summary`: only the symbol that the
    summary describes; images and segments have a background without symbols. `text`: the order of the text, because the
    segments show the entities that the text names first, in this order; images and segments have no symbols either.
    Texts, backgrounds and boxes are the same for every value of this option."""
    relatedness: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of the entities whose symbol the summaries describe, such as `a red circle`. Such a description helps to
    match segments. For all other entities, summaries state only the position in the image; the position does not help.
    Images, texts, entities and segments are the same for every value of this option."""
    test_text_suffix: str = ""
    """Text that follows after the text of each test sample; training samples do not have it. `{summary}` stands for the
    summary of the sample, and `{{` for a brace. Default: no text."""
    cell_size: Annotated[int, Field(ge=8, le=256)] = 16
    """Side of a cell in pixels. An image has three by three cells, each for one symbol. Default: the side of a token of
    the tiny models, so that the edges of boxes are those of tokens."""
    symbol_size: tuple[SymbolSide, SymbolSide] | None = None
    """Minimum and maximum side of a symbol in pixels, at most `cell_size`. A smaller symbol has a random place in its
    cell. Its box is the square that it fills. Default: each symbol fills its cell."""
    background: Literal["plain", "gradient"] = "plain"
    """`plain`: the same grey everywhere, with noise. `gradient`: also more red from left to right, and more blue from
    top to bottom, so that a part of an image shows where it comes from. Small models learn boxes much faster with it:
    most vision towers know only relative positions."""
    segmented_ratio: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the training samples that have segments. A lower value gives less training data for `match`. The images
    are the same for every value of this option. In a sample without segments, the correct answer to `match` is
    empty."""

    @field_validator("entities_per_image")
    @classmethod
    def _is_range(cls, limits: tuple[int, int]) -> tuple[int, int]:
        if limits[0] > limits[1]:
            raise ValueError(f"the minimum comes first: [{limits[1]}, {limits[0]}]")
        return limits

    @model_validator(mode="after")
    def _symbols_fit_into_cells(self) -> SyntheticOptions:
        if self.symbol_size is not None and not self.symbol_size[0] <= self.symbol_size[1] <= self.cell_size:
            raise ValueError(
                f"symbol_size is {list(self.symbol_size)}; the minimum comes first, and a symbol has at most the "
                f"{self.cell_size} pixels of cell_size"
            )
        return self

    @field_validator("test_text_suffix")
    @classmethod
    def _has_known_fields(cls, suffix: str) -> str:
        try:
            fields = [field for _, *field in Formatter().parse(suffix) if field[0] is not None]
        except ValueError as error:
            raise ValueError(f"{error}; write {{{{ and }}}} for braces") from error
        for name, *formats in fields:
            if name != "summary":
                raise ValueError(f"only {{summary}} can be filled in, not {{{name}}}; write {{{{ and }}}} for braces")
            if any(formats):
                raise ValueError("write {summary} with no format after it")
        return suffix

    @model_validator(mode="after")
    def _text_names_what_the_image_shows(self) -> SyntheticOptions:
        if self.entities_per_image[1] > self.max_entities_per_text:
            raise ValueError(
                f"an image may show {self.entities_per_image[1]} entities, but a text names at most "
                f"{self.max_entities_per_text}; write max_entities_per_text: {self.entities_per_image[1]}, or lower "
                "entities_per_image"
            )
        return self

    def smoke(self) -> Mapping[str, Any]:
        """Generate only a few samples."""
        return {"train": 12, "test": 4}
