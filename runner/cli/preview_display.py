"""Prints previewed samples: coloured tokens, JSON lines or a page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from runner.preflight.preview import PreviewedImage, PreviewedSample, PromptSegment, write_page

TRAINED_STYLES = ("black on green", "black on bright_green")
"""Styles of tokens with loss; they alternate, so that the boundaries are visible."""

STYLES = {"text": "", "special": "magenta", "image": "cyan"}
"""Styles of segments without loss."""


class ProblemCounter:
    """Passes samples through and counts those with a problem."""

    def __init__(self, samples: Iterator[PreviewedSample]) -> None:
        """Wrap an iterator of samples."""
        self._samples, self.num_samples, self.num_with_problems = samples, 0, 0

    def __iter__(self) -> Iterator[PreviewedSample]:
        """Yield the samples."""
        for sample in self._samples:
            self.num_samples += 1
            self.num_with_problems += bool(sample.problems)
            yield sample


def show_samples(samples: Iterator[PreviewedSample], *, html: Path | None, title: str, as_json: bool) -> int:
    """Print samples on standard output one by one, or write them to a page.

    Args:
        samples: The samples; they are iterated once.
        html: File of the page; None prints the samples.
        title: Title of the page.
        as_json: Print one JSON line per sample, also if a page is written.

    Returns:
        The number of samples with a problem.
    """
    counter = ProblemCounter(samples)
    if html is not None:
        write_page(html, title, _print_json(counter) if as_json else iter(counter))
    elif as_json:
        for _ in _print_json(counter):
            pass
    else:
        _print_samples(counter)
    if not as_json:
        print(f"{f'{html}: ' if html else ''}{_summary(counter)}")
    return counter.num_with_problems


def _print_json(samples: ProblemCounter) -> Iterator[PreviewedSample]:
    for sample in samples:
        print(json.dumps(sample.as_json(), ensure_ascii=False), flush=True)
        yield sample


def _print_samples(samples: ProblemCounter) -> None:
    console = Console(highlight=False)
    for sample in samples:
        console.print(Rule(f"sample {sample.id}", align="left", style="dim"))
        for line in sample_lines(sample):
            console.print(line, soft_wrap=not console.is_terminal)


def _summary(counter: ProblemCounter) -> str:
    number = f"{counter.num_samples:,} sample{'s' if counter.num_samples != 1 else ''}"
    problems = f"{counter.num_with_problems:,} with a problem" if counter.num_with_problems else "no problem found"
    return f"{number}, {problems}"


def sample_lines(sample: PreviewedSample) -> list[Text]:
    """The lines of a sample: images, prompt and answer, trained text, lengths, problems."""
    lines = [Text(f"{number}. {_image_line(image)}", "cyan") for number, image in enumerate(sample.images, start=1)]
    lines.append(_styled_text(sample.segments))
    if sample.trained_text:
        lines.append(Text.assemble(("trained: ", "bold"), (repr(sample.trained_text), "green")))
    elif sample.target is not None:
        lines.append(Text.assemble(("reference answer, which the model does not see: ", "bold"), sample.target))
    lines.append(Text(length_line(sample), "dim"))
    lines += [Text(f"problem: {problem}", "red") for problem in sample.problems]
    return lines if sample.problems else [*lines, Text("no problem found", "dim")]


def _image_line(image: PreviewedImage) -> str:
    size = f"{image.width} × {image.height}" if image.width else "cannot be read"
    tokens = "" if image.num_tokens is None else f", {image.num_tokens:,} token{'s' * (image.num_tokens != 1)}"
    return f"{image.name}: {image.path} ({size}{tokens})"


def _styled_text(segments: tuple[PromptSegment, ...]) -> Text:
    text, num_trained = Text(), 0
    for segment in segments:
        text.append(segment.text, TRAINED_STYLES[num_trained % 2] if segment.trained else STYLES[segment.kind])
        num_trained += segment.trained
    return text


def length_line(sample: PreviewedSample) -> str:
    """Describe the lengths: `412 tokens: text 120, images 256, trained 36; 1.3 % of 32,768`."""
    lengths = sample.lengths
    share = "" if lengths["share"] is None else f"; {lengths['share']:.1%} of {lengths['limit']:,}"
    note = "; the answer is truncated" if sample.truncated else ""
    note = "; too long, skipped in training" if sample.skipped else note
    kinds = f"text {lengths['text']:,}, images {lengths['image']:,}, trained {lengths['target']:,}"
    return f"{lengths['total']:,} tokens: {kinds}{share}{note}"
