"""Counts the tokens of images in each model family, and prints the table of docs/models.md.

    python -m bench.image_tokens [--write]

The counts are those of the model plugins, from the sizes of the images, with the image settings of published
checkpoints; no checkpoint is needed. `--write` replaces the table in the documentation.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from PIL import Image

from bench.docs_table import write_between
from runner.records import ImagePart, Rendered

DOCS = Path(__file__).parent.parent / "docs" / "models.md"
TABLE = "image tokens"
"""Name of the table in the comments of docs/models.md."""

SIZES = {
    "segment of 40 x 30": (40, 30),
    "strip of 2600 x 14": (2600, 14),
    "photograph of 1000 x 667": (1000, 667),
    "photograph of 4000 x 3000": (4000, 3000),
}
"""Width and height in pixels."""


@dataclass(frozen=True)
class Published:
    """Image settings of published checkpoints.

    Attributes:
        plugin: The plugin of the stage `model`.
        checkpoints: Which checkpoints have these settings.
        images: Settings of the image processor: those of `preprocessor_config.json` that matter for the count.
        processor: Settings of the processor.
        options: Options of the plugin.
        beside: Whether the sample has another image.
    """

    plugin: str
    checkpoints: str
    images: Mapping[str, Any] = field(default_factory=dict)
    processor: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    beside: bool = False


QWEN2 = {"patch_size": 14, "size": {"shortest_edge": 3136, "longest_edge": 12_845_056}}
QWEN3 = {"patch_size": 16, "size": {"shortest_edge": 65_536, "longest_edge": 16_777_216}}
GLM = {"patch_size": 14, "size": {"shortest_edge": 12_544, "longest_edge": 9_633_792}}
SMOLVLM2 = {"size": {"longest_edge": 2048}, "max_image_size": {"longest_edge": 512}}
ONE_TILE = {"longest_edge": 512}

FAMILIES = (
    Published("qwen2_5_vl", "Qwen2-VL and Qwen2.5-VL", QWEN2),
    Published("qwen2_5_vl", "the same with `max_pixels: 50176`", QWEN2, options={"max_pixels": 50_176}),
    Published("qwen3_vl", "Qwen3-VL", QWEN3),
    Published("glm4v", "GLM-4.1V-9B", GLM),
    Published("gemma3", "Gemma 3", processor={"image_seq_length": 256}),
    Published("smolvlm", "SmolVLM2-500M", SMOLVLM2, {"image_seq_len": 64}),
    Published("smolvlm", "the same with `longest_edge: 512`", SMOLVLM2, {"image_seq_len": 64}, ONE_TILE),
    Published("internvl", "InternVL3", processor={"image_seq_length": 256}),
    Published("internvl", "the same with `max_tiles: 1`", {}, {"image_seq_length": 256}, {"max_tiles": 1}),
    Published("llava_onevision", "LLaVA-OneVision, one image", processor={"num_image_tokens": 729}),
    Published("llava_onevision", "LLaVA-OneVision, several images", processor={"num_image_tokens": 729}, beside=True),
)
"""Settings by the checkpoints' files; where they are those of transformers' classes, none is given."""


def count_tokens(published: Published, files: Sequence[Path]) -> Iterator[int]:
    """Count the tokens of each image with the plugin, alone or as the first of two."""
    (model,) = entry_points(group="runner.model", name=published.plugin)
    (options,) = entry_points(group="runner.model.options", name=published.plugin)
    plugin: Any = model.load()(options.load()(size="smoke", **published.options))
    model_spec: Any = plugin.model_spec(["What does this image show?"] * 8)
    small = model_spec.processor
    settings = {"vision_feature_select_strategy": "full"} if published.plugin == "llava_onevision" else {}
    images = type(small.image_processor)(**published.images)
    processor = plugin._assemble(images, small.tokenizer, **published.processor, **settings)
    model_spec.processor = plugin._with_options(processor)
    for file in files:
        shown = [file, file] if published.beside else [file]
        yield model_spec.count(Rendered("x", tuple(map(ImagePart, shown)))).by_image[0]


def table() -> str:
    """Return the table in Markdown."""
    lines = [f"| plugin | checkpoint | {' | '.join(SIZES)} |", f"|---|---|{'---:|' * len(SIZES)}"]
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{width}x{height}.png" for width, height in SIZES.values()]
        for file, size in zip(files, SIZES.values(), strict=True):
            Image.new("L", size).save(file)
        for published in FAMILIES:
            counts = " | ".join(f"{count:,}" for count in count_tokens(published, files))
            lines.append(f"| `{published.plugin}` | {published.checkpoints} | {counts} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the table of the docs")
    options = parser.parse_args()
    text = table()
    print(text)
    if options.write:
        write_between(DOCS, TABLE, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
