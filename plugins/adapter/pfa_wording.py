"""The words of the Prompt Format Adapter: the published ones, and ours where the paper asks for no such task.

The prompt and target for all three tasks are quoted from M-MRE (arXiv 2504.17353). For other subsets of tasks
the published sentences are kept where they apply; the rest is marked "ours" below.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

SUMMARY_MARKER = "Task 1 Answer:"
FINE_MARKER = "Task 2 Answer:"
NER_MARKER = "NER:"
MAPPING_MARKER = "image entities pair"

_BOTH = (
    "Please answer the following two image understanding tasks.\n"
    "Output the answers to these two questions in order."
)
_ONE = "Please answer the following image understanding task."  # ours
_SUMMARY = "Task 1: What is in this image?"
_PAIR_FORMAT = "Please output all label-entities pairs in set format. e.g. (:label1;entities1:label2;entities2)."
_MAPPING_FORMAT = "output image number with entities pairs. e.g. {'a': 'entities1', 'b': 'entities2'}."


def prompt(tasks: Collection[str], text: str, labels: Sequence[str]) -> str:
    """Write the prompt for a tweet."""
    fine = [task for task in tasks if task != "summary"]
    lines = [_BOTH if "summary" in tasks and fine else _ONE]
    if "summary" in tasks:
        lines.append(_SUMMARY)
    if fine:
        lines += [f"Task 2: Text: {text}", _fine_question(tasks, labels)]
    if "ner" in tasks:
        lines.append(_PAIR_FORMAT)
    if "match" in tasks:
        lines.append(("And " if "ner" in tasks else "Please ") + _MAPPING_FORMAT)
    return "\n".join(lines)


def _fine_question(tasks: Collection[str], labels: Sequence[str]) -> str:
    whole = "the full image of task 1" if "summary" in tasks else "the full image"
    segmented = f"We segment one or more of the smaller images from {whole}. " if "match" in tasks else ""
    if "ner" in tasks and "match" in tasks:
        return (
            f"{segmented}Based on the provided text, extract their corresponding entities based on the given labels, "
            "and then output the extracted label-entity pair matching the number of the corresponding small pictures. "
            f"{label_sentence(labels)}"
        )
    if "ner" in tasks:  # ours
        return f"Based on the provided text, extract the entities based on the given labels. {label_sentence(labels)}"
    return (  # ours
        f"{segmented}Based on the provided text, output the entity matching the number of each of the corresponding "
        "small pictures."
    )


def label_sentence(labels: Sequence[str]) -> str:
    """Name the labels as the published prompt does, for any number of them."""
    if len(labels) == 1:
        return f"There is 1 type of label: {labels[0]}."
    return f"There are {len(labels)} types of labels: {', '.join(labels[:-1])} and {labels[-1]}."


def target(
    tasks: Collection[str], summary: str | None, pairs: Sequence[tuple[str, str]], mapping: Mapping[str, str]
) -> str:
    """Write the answer that is to be learnt.

    Args:
        tasks: The parts that are asked for.
        summary: Task 1.
        pairs: (label, entity), in the order of the text.
        mapping: Segment letter to entity, written in Python's dict notation so that apostrophes survive.
    """
    lines = [f"{SUMMARY_MARKER} {summary}"] if "summary" in tasks else []
    if "ner" in tasks or "match" in tasks:
        lines.append(FINE_MARKER)
    if "ner" in tasks:
        lines += [NER_MARKER, "".join(f":{label};{entity}" for label, entity in pairs)]
    if "match" in tasks:
        lines.append(f"{MAPPING_MARKER}{dict(mapping)!r}")
    return "\n".join(lines)
