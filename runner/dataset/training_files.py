"""Writes rendered examples in the formats of other trainers: ms-swift, LLaMA-Factory and Qwen-VL-Series-Finetune (2U1).

The three formats mark the place of an image in a text with `<image>`. What each reader does with a text was read in
ms-swift 4.6.0, LLaMA-Factory 0.9.5 and Qwen-VL-Series-Finetune of 2025-10; bench/other_readers.py compares it again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.records import ImagePart, Rendered

IMAGE_MARK = "<image>"
"""The place of an image in a text."""
SPECIAL_TOKEN = r"<\|\w+\|>"
"""Special tokens such as `<|im_end|>`: the tokenizers of these trainers read them in any text."""


@dataclass(frozen=True)
class TrainingFormat:
    """The file format of a trainer.

    Attributes:
        name: Its name in `--to`.
        trainer: The name of the trainer, for messages.
        suffix: The suffix of the file of a split.
        marks: What the reader does not read as text, as regular expressions.
        strips_newlines: Whether the reader removes one line break on each side of a mark.
        to_row: Makes a row from id, prompt with marks, target and the names of the images.
    """

    name: str
    trainer: str
    suffix: str
    marks: tuple[str, ...]
    strips_newlines: bool
    to_row: Callable[[str, str, str, Sequence[str]], dict[str, Any]]

    def find_marks(self, text: str) -> list[str]:
        """Return what the reader would not read as text, each once, in the order of the text."""
        return list(dict.fromkeys(re.findall(self._pattern, text)))

    def escape(self, text: str) -> str:
        """Add a space after the `<` of each mark, so that the reader reads it as text."""
        return re.sub(self._pattern, lambda mark: f"< {mark[0][1:]}", text)

    @property
    def _pattern(self) -> str:
        return "|".join((*self.marks, SPECIAL_TOKEN))


def find_example_marks(example: Rendered, file_format: TrainingFormat) -> list[str]:
    """Return the marks in the texts of an example, each once; parts are joined, because a mark can begin in one."""
    prompt = "".join("\0" if isinstance(part, ImagePart) else part.text for part in example.content)
    return list(dict.fromkeys([*file_format.find_marks(prompt), *file_format.find_marks(example.target or "")]))


def prompt_with_marks(example: Rendered, file_format: TrainingFormat) -> str:
    """Write the prompt as one text, with a mark for each image.

    A line break beside a mark is written twice if the reader removes one.
    """
    texts = [""]
    for part in example.content:
        if isinstance(part, ImagePart):
            texts.append("")
        else:
            texts[-1] += part.text
    last = len(texts) - 1
    return IMAGE_MARK.join(
        _protect_newlines(escaped, after_mark=index > 0, before_mark=index < last)
        if file_format.strips_newlines
        else escaped
        for index, escaped in enumerate(map(file_format.escape, texts))
    )


def _protect_newlines(text: str, *, after_mark: bool, before_mark: bool) -> str:
    """Double the line break at the beginning or at the end of a text that is beside a mark."""
    first = "\n" if after_mark and text.startswith("\n") else ""
    last = "\n" if before_mark and text.endswith("\n") else ""
    return f"{first}{text}{last}"


def example_row(example: Rendered, file_format: TrainingFormat, image_names: Mapping[Path, str]) -> dict[str, Any]:
    """Convert an example with its target to a row; marks in its texts are escaped.

    Args:
        example: The example, without few-shot examples.
        file_format: The format.
        image_names: The name of each image in the export.
    """
    assert example.target is not None
    prompt = prompt_with_marks(example, file_format)
    names = [image_names[path] for path in example.images]
    return file_format.to_row(example.id, prompt, file_format.escape(example.target), names)


def _messages_row(example_id: str, prompt: str, target: str, images: Sequence[str]) -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": target}]
    return {"id": example_id, "messages": messages, "images": list(images)}


def _llava_row(example_id: str, prompt: str, target: str, images: Sequence[str]) -> dict[str, Any]:
    """Write a conversation as LLaVA does; `image` is a name, a list of names, or absent."""
    image = {"image": images[0] if len(images) == 1 else list(images)} if images else {}
    turns = [{"from": "human", "value": prompt}, {"from": "gpt", "value": target}]
    return {"id": example_id, **image, "conversations": turns}


FORMATS: Mapping[str, TrainingFormat] = {
    each.name: each
    for each in (
        TrainingFormat(
            "ms_swift",
            "ms-swift",
            ".jsonl",
            # `<img>` counts only without images, and the others only with what they stand for; but all divide a text.
            ("<image>", "<video>", "<audio>", "<bbox>", "<ref-object>", "<cot-process>", "<start-image>", "<img>"),
            strips_newlines=False,
            to_row=_messages_row,
        ),
        TrainingFormat(
            "llama_factory",
            "LLaMA-Factory",
            ".jsonl",
            ("<image>", "<video>", "<audio>"),
            strips_newlines=False,
            to_row=_messages_row,
        ),
        TrainingFormat(
            "2u1", "Qwen-VL-Series-Finetune", ".json", ("<image>",), strips_newlines=True, to_row=_llava_row
        ),
    )
}
"""The formats by name."""


def write_split(folder: Path, split: str, rows: Iterable[Mapping[str, Any]], file_format: TrainingFormat) -> None:
    """Write the rows of a split: JSON lines, or one JSON list with a row on each line."""
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    is_list = file_format.suffix == ".json"
    with (folder / f"{split}{file_format.suffix}").open("w", encoding="utf-8", newline="\n") as file:
        file.write("[\n" if is_list else "")
        for index, line in enumerate(lines):
            file.write((",\n" if is_list and index else "") + line + ("" if is_list else "\n"))
        file.write("\n]\n" if is_list else "")


def dataset_info(name: str, splits: Iterable[str]) -> dict[str, Any]:
    """Return the content of `dataset_info.json`, with which LLaMA-Factory finds the files."""
    return {
        # The names of data sets are separated by commas in the settings of a training.
        re.sub(r"[^\w.-]", "_", f"{name}_{split}"): {
            "file_name": f"{split}.jsonl",
            "formatting": "sharegpt",
            "columns": {"messages": "messages", "images": "images"},
            "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
        }
        for split in splits
    }
