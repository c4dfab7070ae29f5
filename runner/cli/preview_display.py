"""Prints previewed samples: coloured tokens, JSON lines or a page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from runner.preflight.preview import PreviewedImage, PreviewedSample, PromptSegment, write_page

TINTS = ("black on green", "black on bright_green")
"""Tokens that are trained, in turns, so that their borders show."""

STYLES = {"text": "", "special": "magenta", "image": "cyan"}
"""What the model is shown and not trained on."""


class ProblemCounter:
    """Passes samples on and counts those with a problem."""

    def __init__(self, samples: Iterator[PreviewedSample]) -> None:
        """Nothing is counted yet."""
        self._samples, self.num_samples, self.num_wrong = samples, 0, 0

    def __iter__(self) -> Iterator[PreviewedSample]:
        """Pass them on."""
        for sample in self._samples:
            self.num_samples += 1
            self.num_wrong += bool(sample.problems)
            yield sample


def show_samples(samples: Iterator[PreviewedSample], *, html: Path | None, title: str, as_json: bool) -> int:
    """Print samples as they come, on standard output, or write them to a page.

    Args:
        samples: Each is taken once.
        html: Where to write a page.
        title: Of the page.
        as_json: Print a line of JSON a sample; besides a page, too.

    Returns:
        How many have a problem.
    """
    tally = ProblemCounter(samples)
    if html is not None:
        write_page(html, title, _printed(tally) if as_json else iter(tally))
    elif as_json:
        for _ in _printed(tally):
            pass
    else:
        _print_all(tally)
    if not as_json:
        print(f"{f'{html}: ' if html else ''}{_verdict(tally)}")
    return tally.num_wrong


def _printed(tally: ProblemCounter) -> Iterator[PreviewedSample]:
    for sample in tally:
        print(json.dumps(sample.as_json(), ensure_ascii=False), flush=True)
        yield sample


def _print_all(tally: ProblemCounter) -> None:
    console = Console(highlight=False)
    for sample in tally:
        console.print(Rule(f"sample {sample.id}", align="left", style="dim"))
        for line in sample_lines(sample):
            console.print(line, soft_wrap=not console.is_terminal)


def _verdict(tally: ProblemCounter) -> str:
    shown = f"{tally.num_samples:,} sample{'s' if tally.num_samples != 1 else ''}"
    return f"{shown}, {tally.num_wrong:,} with a problem" if tally.num_wrong else f"{shown}, no problem found"


def sample_lines(sample: PreviewedSample) -> list[Text]:
    """A sample in a terminal: pictures, prompt and answer in one, what carries loss once more, lengths, problems."""
    lines = [Text(f"{place}. {_picture(picture)}", "cyan") for place, picture in enumerate(sample.pictures, start=1)]
    lines.append(_flow(sample.pieces))
    if sample.trained_text:
        lines.append(Text.assemble(("trained: ", "bold"), (repr(sample.trained_text), "green")))
    elif sample.target is not None:
        lines.append(Text.assemble(("right answer, which is not shown: ", "bold"), sample.target))
    lines.append(Text(length_line(sample), "dim"))
    lines += [Text(f"problem: {problem}", "red") for problem in sample.problems]
    return lines if sample.problems else [*lines, Text("the proof finds nothing wrong", "dim")]


def _picture(picture: PreviewedImage) -> str:
    size = f"{picture.width} × {picture.height}" if picture.width else "cannot be read"
    tokens = "" if picture.num_tokens is None else f", {picture.num_tokens:,} token{'s' * (picture.num_tokens != 1)}"
    return f"{picture.name}: {picture.path} ({size}{tokens})"


def _flow(pieces: tuple[PromptSegment, ...]) -> Text:
    flow, place = Text(), 0
    for piece in pieces:
        flow.append(piece.text, TINTS[place % 2] if piece.trained else STYLES[piece.kind])
        place += piece.trained
    return flow


def length_line(sample: PreviewedSample) -> str:
    """The lengths in words: `412 tokens: text 120, images 256, trained 36; 1.3 % of 32,768`."""
    told = sample.lengths
    share = "" if told["share"] is None else f"; {told['share']:.1%} of {told['limit']:,}"
    cut = "; the end of the answer is cut off" if sample.truncated else ""
    cut = "; too long, and left out of training" if sample.skipped else cut
    kinds = f"text {told['text']:,}, images {told['image']:,}, trained {told['target']:,}"
    return f"{told['total']:,} tokens: {kinds}{share}{cut}"
