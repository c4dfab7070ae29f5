"""Options of the adapter `gmner`, and the texts of its prompts and targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, get_args

from pydantic import Field, StringConstraints, field_validator

from plugins.adapter.box_jitter import BoxJitter
from plugins.adapter.pfa_prompt import (
    EXTRACTION_MARK,
    ONE_TASK,
    SUMMARY_MARK,
    SUMMARY_QUESTION,
    TWO_TASKS,
    label_sentence,
)
from plugins.adapter.tasks_and_labels import check_distinct_labels, check_task_order
from runner.records import Box, GroundedEntity
from runner.stages import AdapterOptions, BoxFrame, RelativeFrame

Task = Literal["summary", "gmner"]
"""The tasks: a summary of the image, and the entities of the text with labels and boxes."""

TASKS: tuple[Task, ...] = get_args(Task)
"""All tasks, in the order of the prompt."""

LABEL_PATTERN = r"^[^\s|;]+(?: [^\s|;]+)*$"
"""An entity label: words separated by one space. Vertical bars and semicolons delimit the parts of an answer."""

Label = Annotated[str, StringConstraints(pattern=LABEL_PATTERN)]

Format = Literal["lines", "e2e"]

NO_BOX = "None"
"""The box of an entity that the image does not show, and the answer for a text without entities."""

SEPARATORS: Mapping[Format, str] = {"lines": "\n", "e2e": "; "}
"""The text between two entities of an answer."""

THOUSAND = 1000
"""Units of each side of an image with `frame: thousand`."""


class GmnerAdapterOptions(AdapterOptions):
    """Grounded multimodal NER: the entities of a text with labels, and the boxes that show them in the image."""

    tasks: tuple[Task, ...] = Field(default=("gmner",), min_length=1)
    """The tasks of a prompt: `summary`, `gmner`, or both in this order. Default: `gmner` alone, as in the benchmark."""

    labels: tuple[Label, ...] | None = Field(default=None, min_length=1)
    """The entity labels in the prompt, in this order. They must include all labels of the data set. Default: the labels
    of the data set."""

    format: Format = "lines"
    """How an answer lists entities. `lines`: `entity|label|box`, one entity a line. `e2e`: the same parts, with a
    semicolon between entities, as in E2E-GMNER (arXiv 2604.17319). Both are read in the same way."""

    frame: Literal["model", "thousand", "original"] = "model"
    """The numbers of a box. `model`: those that the model family was trained to write, such as pixels of the resized
    image for Qwen2.5-VL, or 0 to 1000 for Qwen3-VL. `thousand`: 0 to 1000 of the width and of the height. `original`:
    pixels of the image as it is stored."""

    boxes: Literal["all", "largest", "first"] = "all"
    """What the model learns to write for an entity with several boxes: a list of all of them, as in E2E-GMNER, only the
    largest, or only the first of the annotation. References always have all boxes."""

    box_jitter: BoxJitter | None = None
    """Random changes of the boxes that the model is trained to write. Default: none."""

    @field_validator("tasks")
    @classmethod
    def _in_order(cls, tasks: tuple[Task, ...]) -> tuple[Task, ...]:
        return check_task_order(tasks, TASKS)

    @field_validator("labels")
    @classmethod
    def _distinct(cls, labels: tuple[Label, ...] | None) -> tuple[Label, ...] | None:
        return check_distinct_labels(labels)

    @property
    def task_names(self) -> Sequence[str]:
        """The tasks of a prompt."""
        return self.tasks

    @property
    def needs_box_frame(self) -> bool:
        """Whether boxes are written in the frame of the model."""
        return self.frame == "model" and "gmner" in self.tasks

    @property
    def num_target_draws(self) -> int:
        """Number of targets that are drawn for each sample; 0 without jitter."""
        return self.box_jitter.draws if self.box_jitter is not None and "gmner" in self.tasks else 0

    @property
    def own_frame(self) -> BoxFrame | None:
        """The frame that `frame` sets without the model; None for that of the model."""
        frames = {"thousand": RelativeFrame(units=THOUSAND), "original": BoxFrame()}
        return frames.get(self.frame)


_QUESTION = "Extract the entities of the text with their labels, and locate each of them in the image."
_LISTS: Mapping[Format, str] = {
    "lines": "Write one line for each entity, in the order of the text: entity|label|{box}",
    "e2e": "Write the entities in the order of the text, separated by semicolons, each as entity|label|{box}",
}
_BOX = "x1, y1, x2 and y2 are left, top, right and bottom of a box that shows the entity, in {unit}."
_SEVERAL_BOXES = "If several boxes show an entity, write them as {boxes}."
_NONE = f"If the image does not show an entity, write {NO_BOX} for its box. If there is no entity, write {NO_BOX}."


def prompt_text(
    tasks: Sequence[Task], labels: Sequence[str], text: str, options: GmnerAdapterOptions, frame: BoxFrame
) -> str:
    """Build the text of the prompt.

    Args:
        tasks: The tasks; at least one.
        labels: The entity labels; at least one.
        text: The tweet, inserted unchanged.
        options: The format, and which boxes are written.
        frame: The frame of the boxes.
    """
    if "gmner" not in tasks:
        return ONE_TASK + SUMMARY_QUESTION
    sides = [["x1", "y1", "x2", "y2"], ["x3", "y3", "x4", "y4"]]
    sentences = [_LISTS[options.format].format(box=frame.join(sides[:1])), _BOX.format(unit=frame.unit)]
    if options.boxes == "all":
        sentences.append(_SEVERAL_BOXES.format(boxes=frame.join(sides)))
    question = f"Task 2: Text: {text}\n{_QUESTION} {label_sentence(labels)}\n"
    question += "\n".join((*sentences, _NONE))
    return f"{TWO_TASKS}{SUMMARY_QUESTION}\n{question}" if "summary" in tasks else ONE_TASK + question


def target_text(
    tasks: Sequence[Task], summary: str, entities: Sequence[GroundedEntity], list_format: Format, frame: BoxFrame
) -> str:
    """Build the target. Only an answer to both tasks has headings.

    Args:
        tasks: The tasks; at least one.
        summary: The summary of the image.
        entities: The entities in the order of the text, with the boxes to write.
        list_format: How entities are listed.
        frame: The frame of the boxes.
    """
    items = [f"{each.text}|{each.label}|{frame.write(each.boxes) if each.boxes else NO_BOX}" for each in entities]
    listed = SEPARATORS[list_format].join(items) or NO_BOX
    if "gmner" not in tasks:
        return f"{SUMMARY_MARK} {summary}"
    return f"{SUMMARY_MARK} {summary}\n{EXTRACTION_MARK}\n{listed}" if "summary" in tasks else listed


def chosen_boxes(boxes: Sequence[Box], choice: Literal["all", "largest", "first"]) -> tuple[Box, ...]:
    """Return the boxes that are written for an entity; of several largest ones, the first."""
    if choice == "all" or not boxes:
        return tuple(boxes)
    return (boxes[0] if choice == "first" else max(boxes, key=_area),)


def _area(box: Box) -> float:
    left, top, right, bottom = box
    return (right - left) * (bottom - top)


CONTEXT_NAMES: Mapping[str, str] = {
    "summary": "Summary of the image",
    "gmner": "Entities with labels and boxes",
}
"""What a context calls the answer to a task."""


def context_answer(task: Task, answer: str) -> str:
    """Return an answer to one task without its heading, in one line; entities are separated by semicolons."""
    text = answer.strip()
    if task == "summary":
        return " ".join(text.removeprefix(SUMMARY_MARK).split())
    lines = [" ".join(line.split()) for line in text.removeprefix(EXTRACTION_MARK).splitlines()]
    return "; ".join(filter(None, lines))
