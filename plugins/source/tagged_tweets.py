"""Reads tweets with BIO tags: the text format that the corpora GMNER, FMNERG and Twitter-2015/2017 share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runner.errors import data_line_error
from runner.files import describe_decode_error
from runner.records import Entity, is_blank
from runner.stages import SkippedEntry


@dataclass(frozen=True)
class TagColumn:
    """Which column of a line holds the tag of a token, and what its labels are called.

    Attributes:
        number_of_columns: Columns of a line, separated by tabs; the first holds the token.
        index: The column with the tag, counted from 0.
        labels: The label of an entity by the label in the tag. The case of a tag does not matter if all are lower case.
        other_sources: By number of columns, the sources that read such lines.
    """

    number_of_columns: int
    index: int
    labels: Mapping[str, str]
    other_sources: Mapping[int, str]


@dataclass
class TaggedTweet:
    """A tweet, filled line by line.

    Attributes:
        image_id: The IMGID of its first line.
        location: `file:line` of this line.
        tokens: The tokens, without white space.
        tags: The tag of each token: `O`, or `B-` or `I-` with a label.
    """

    image_id: str
    location: str
    tokens: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The tokens, separated by one space."""
        return " ".join(filter(None, self.tokens))


def read_tweets(file: Path, column: TagColumn, problems: list[str]) -> Iterator[TaggedTweet]:
    """Yield the tweets of a file.

    Args:
        file: Each tweet begins with a line `IMGID:<id>`, followed by one line for each token.
        column: Describes the columns of a line.
        problems: Receives a message with file and line for each invalid line, which is then ignored.
    """
    tags = {"O", *(f"{kind}-{label}" for kind in "BI" for label in column.labels)}
    any_case = all(label == label.lower() for label in column.labels)
    tweet: TaggedTweet | None = None
    for number, line in enumerate(_read_text(file, problems).split("\n"), start=1):
        location = f"{file}:{number}"
        if line.startswith("IMGID:"):
            if tweet is not None:
                yield tweet
            image_id = line.removeprefix("IMGID:").strip()
            if not image_id or "/" in image_id or image_id in {".", ".."}:
                problems.append(f"{location}: {line!r} has no image id; write IMGID:<id>")
                image_id = "unknown"  # No file outside the folders may be opened.
            tweet = TaggedTweet(image_id, location)
        elif line.strip():
            cells = line.rstrip("\r").split("\t")
            if tweet is None or not cells[0] or len(cells) != column.number_of_columns:
                problems.append(f"{location}: {_line_problem(line, cells, column)}")
                continue
            tag = _normalize_case(cells[column.index].strip()) if any_case else cells[column.index].strip()
            if tag not in tags:
                problems.append(f"{location}: the tag {tag!r} is not O, B- or I- with {', '.join(column.labels)}")
                continue
            tweet.tokens.append(" ".join(cells[0].split()))
            tweet.tags.append(tag)
    if tweet is not None:
        yield tweet


def tagged_entities(tweet: TaggedTweet, labels: Mapping[str, str]) -> tuple[Entity, ...]:
    """Collect entities from BIO tags; as in CoNLL's scorer, an I- that follows no tag of its label starts an entity."""
    entities: list[tuple[str, list[str]]] = []
    previous = "O"
    for token, tag in zip(tweet.tokens, tweet.tags, strict=True):
        kind, _, label = tag.partition("-")
        if kind == "B" or (kind == "I" and previous.partition("-")[2] != label):
            entities.append((labels[label], [token]))
        elif kind == "I":
            entities[-1][1].append(token)
        previous = tag
    return tuple(Entity(label, " ".join(filter(None, tokens))) for label, tokens in entities)


def split_blank_entities(name: str, entities: Sequence[Entity]) -> tuple[tuple[Entity, ...], list[SkippedEntry]]:
    """Return the entities that show something, and an entry for each other one of the sample `name`."""
    blank = [
        SkippedEntry(name, f"entity of white space, tagged as {each.label}") for each in entities if is_blank(each.text)
    ]
    return tuple(each for each in entities if not is_blank(each.text)), blank


def _read_text(file: Path, problems: list[str]) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line, _, message = describe_decode_error(error)
        problems.append(str(data_line_error(file, line, message)))
        return ""


def _normalize_case(tag: str) -> str:
    kind, dash, label = tag.partition("-")
    return f"{kind.upper()}{dash}{label.lower()}"


def _line_problem(line: str, cells: Sequence[str], column: TagColumn) -> str:
    tags = "<TAB>tag" * (column.number_of_columns - 1)
    expected = f"is neither IMGID:<id> nor token{tags}"
    other = column.other_sources.get(len(cells))
    if other is None or not cells[0]:
        return f"{line!r} {expected}"
    return f"{line!r} has {len(cells)} columns and {expected}; the source {other} reads such files"
