"""Reads exports of `runner export --to …` with the readers of ms-swift, LLaMA-Factory and 2U1's trainer.

Run it in a Python environment with mmre-runner and the trainer, for example:

    python bench/other_readers.py ms_swift DATASET SPEC
    python bench/other_readers.py 2u1 DATASET SPEC --repository CLONE_OF_THE_TRAINER

The script exports the data set with escaped marks, reads it with the trainer's own code up to the tokenizer, and
compares the result with what the adapter renders: the text of the prompt, the places and the number of images, their
order, and the trained text. It prints one line of JSON for each split, and ends with status 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

from runner.dataset.folder_reader import DatasetFolder
from runner.dataset.training_files import FORMATS, TrainingFormat
from runner.export_examples import ExportOptions, export_examples, render_splits
from runner.records import ImagePart, Rendered
from runner.spec.load import load_spec

PLACE = "\ufffc"
"""Stands for an image in a text."""
VISION = "<|vision_start|><|image_pad|><|vision_end|>"
"""An image in a text of Qwen2.5-VL, before the processor repeats its middle."""


@dataclass(frozen=True)
class ReadExample:
    """What a trainer reads of an example.

    Attributes:
        prompt: The text of the user's turn, with `PLACE` for each image.
        target: The trained text.
        images: The image files relative to the export, in the order in which they replace the places.
    """

    prompt: str
    target: str
    images: Sequence[str]


def read_ms_swift(folder: Path, split: str) -> Iterator[ReadExample]:
    """Read a split with ms-swift's loader and the functions of its template that find marks."""
    from swift.dataset import load_dataset
    from swift.template.base import Template
    from swift.template.template_inputs import StdTemplateInputs

    rows, _ = load_dataset([str(folder / f"{split}.jsonl")], load_from_cache_file=False, strict=True)
    for row in rows:
        inputs = StdTemplateInputs.from_dict(row)
        Template._replace_image_tags(inputs)
        Template._replace_start_image_tags(inputs)
        if inputs.is_multimodal:
            Template._add_default_tags(inputs)
        texts, images = [], list(inputs.images)
        for message in inputs.messages:
            pieces, _ = Template._split_special_tokens([message["content"]], [1.0])
            # As `Template._pre_tokenize_images` does: the first marks of the conversation, as many as images.
            texts.append(
                "".join(PLACE if piece == "<image>" and images and images.pop(0) else piece for piece in pieces)
            )
        yield ReadExample(texts[0], texts[1], [image["path"] for image in inputs.images])


def read_llama_factory(folder: Path, split: str) -> Iterator[ReadExample]:
    """Read a split with LLaMA-Factory's parser, converter and plugin for Qwen2-VL."""
    from datasets import load_dataset
    from llamafactory.data.converter import get_dataset_converter
    from llamafactory.data.mm_plugin import get_mm_plugin
    from llamafactory.data.parser import get_dataset_list

    names = [name for name in json.loads((folder / "dataset_info.json").read_text()) if name.endswith(f"_{split}")]
    [attributes] = get_dataset_list(names, str(folder))
    convert = get_dataset_converter(
        attributes.formatting, attributes, SimpleNamespace(media_dir=str(folder), dataset_dir=str(folder))
    )
    plugin = get_mm_plugin("qwen2_vl", image_token="<|image_pad|>", video_token="<|video_pad|>")
    plugin.expand_mm_tokens = False
    parts = dict.fromkeys(("image_processor", "video_processor", "feature_extractor"), SimpleNamespace(merge_size=2))
    file = str(folder / attributes.dataset_name)
    for row in load_dataset("json", data_files=file, split="train", cache_dir=str(folder / "cache")):
        read = convert(row)
        images = read["_images"] or []
        messages = plugin.process_messages(
            read["_prompt"] + read["_response"], images, [], [], SimpleNamespace(**parts)
        )
        prompt, target = (message["content"].replace(VISION, PLACE) for message in messages)
        yield ReadExample(prompt, target, [str(Path(image).relative_to(folder)) for image in images])


class _CharacterProcessor:
    """Stands for Qwen2.5-VL's processor: a token is a character, and the images must be as many as their places."""

    def tokenizer(self, text: str, **_: Any) -> dict[str, Any]:
        import torch

        return {"input_ids": torch.tensor([[ord(character) for character in text]])}

    def __call__(self, text: Sequence[str], images: Sequence[Any], **_: Any) -> dict[str, Any]:
        import torch

        if text[0].count("<|image_pad|>") != len(images):
            raise ValueError(f"{len(images)} images for {text[0]!r}")
        return {**self.tokenizer(text[0]), "pixel_values": torch.zeros(1), "image_grid_thw": torch.zeros(1)}


def read_2u1(folder: Path, split: str) -> Iterator[ReadExample]:
    """Read a split with the data set of Qwen-VL-Series-Finetune, whose clone is in `sys.path`."""
    from src.dataset.sft_dataset import SupervisedDataset
    from src.params import DataArguments

    file = folder / f"{split}.json"
    arguments = DataArguments(data_path=str(file), image_folder=str(folder))
    examples = SupervisedDataset(str(file), _CharacterProcessor(), arguments, "Qwen2.5-VL")
    for index in range(len(examples)):
        encoded = examples[index]
        untrained, trained = (
            "".join(
                chr(token) for token, label in zip(encoded["input_ids"], encoded["labels"], strict=True) if keep(label)
            )
            for keep in (lambda label: label < 0, lambda label: label >= 0)
        )
        prompt = untrained.partition("<|im_start|>user\n")[2].removesuffix("<|im_end|>\n<|im_start|>assistant\n")
        names = examples.list_data_dict[index].get("image", [])
        target = trained.removesuffix("<|im_end|>\n")
        yield ReadExample(prompt.replace(VISION, PLACE), target, [names] if isinstance(names, str) else names)


READERS = {"ms_swift": read_ms_swift, "llama_factory": read_llama_factory, "2u1": read_2u1}


def expected_example(example: Rendered, file_format: TrainingFormat, root: Path) -> ReadExample:
    """Return what a trainer has to read of an example, whose marks are escaped."""
    parts = [PLACE if isinstance(part, ImagePart) else file_format.escape(part.text) for part in example.content]
    images = [path.relative_to(root).as_posix() for path in example.images]
    return ReadExample("".join(parts), file_format.escape(example.target or ""), images)


def find_differences(expected: ReadExample, read: ReadExample) -> list[str]:
    """Name what differs."""
    found = {
        "prompt": expected.prompt == read.prompt,
        "number of images": read.prompt.count(PLACE) == len(expected.images),
        "order of images": list(expected.images) == list(read.images),
        "trained text": expected.target == read.target,
    }
    return [name for name, equal in found.items() if not equal]


def main() -> None:
    """Export, read and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("format", choices=READERS)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("spec", type=Path)
    parser.add_argument("--repository", type=Path, help="the clone of Qwen-VL-Series-Finetune")
    options = parser.parse_args()
    if options.repository:
        sys.path.insert(0, str(options.repository.resolve()))
    file_format, spec = FORMATS[options.format], load_spec(options.spec).spec
    folder = DatasetFolder(options.dataset.resolve())
    num_different = 0
    with TemporaryDirectory() as temporary:
        target = Path(temporary).resolve() / "export"
        export_examples(ExportOptions(folder.path, target, options.format, spec, escape_marks=True), _Silent())
        for split, examples in render_splits(spec, folder.labels, folder.load_splits()).items():
            expected = [expected_example(example, file_format, folder.path) for example in examples]
            pairs = list(zip(expected, READERS[options.format](target, split), strict=True))
            different = Counter(name for pair in pairs for name in find_differences(*pair))
            num_images = sum(len(example.images) for example in expected)
            line = {"format": options.format, "split": split, "examples": len(pairs), "images": num_images}
            print(json.dumps({**line, "different": different}), flush=True)
            num_different += different.total()
    sys.exit(int(num_different > 0))


class _Silent:
    def metrics(self, step: int, values: Any) -> None: ...

    def progress(self, done: int, total: int, **shown: float) -> None: ...

    def warn(self, message: str) -> None:
        print(message, file=sys.stderr)

    def stop_requested(self) -> bool:
        return False


if __name__ == "__main__":
    main()
