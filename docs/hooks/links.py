"""Links between files of the repository, as links between pages of the site."""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import dirname, join, normpath, relpath

ROOT = Path(__file__).parent.parent.parent

FRONT = {"README.md": "index.md", "CHANGELOG.md": "changes.md"}
"""Files beside docs/ that are pages of their own."""

LINK = re.compile(r"(?P<image>!?)\[(?P<text>(?:[^][]|\[[^][]*\])*)\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")
CODE = re.compile(r"`[^`\n]+`")
FENCE = re.compile(r"^(```.*?^```)$", flags=re.DOTALL | re.MULTILINE)


def repository_path(page: str) -> str:
    """The file that a page is made of, as the repository has it: `index.md` is `README.md`."""
    own = {page_name: name for name, page_name in FRONT.items()}
    return own.get(page, f"docs/{page}")


def site_path(path: str) -> str | None:
    """Where the site has a file of the repository; None for a folder, which it does not have."""
    if path in FRONT:
        return FRONT[path]
    if path.startswith("docs/") and Path(path).suffix in {".md", ".png"}:
        return path.removeprefix("docs/")
    if path.startswith("specs/") and path.endswith(".yaml"):
        return f"specs/{Path(path).stem}.md"
    return None if (ROOT / path).is_dir() else f"files/{path}.md"


def targets(markdown: str, path: str) -> list[str]:
    """The files of the repository that a file links to."""
    found = [_target(match["target"], path) for prose in _prose(markdown) for match in LINK.finditer(prose)]
    return sorted({target for target in found if target is not None})


def on_site(markdown: str, page: str) -> str:
    """Rewrite a page's links for the site; a link to a folder becomes its text.

    A pipe in code is escaped in GitHub's tables and not in those of Python-Markdown, which is put right too.
    """
    path = repository_path(page)

    def rewritten(match: re.Match[str]) -> str:
        target = _target(match["target"], path)
        if target is None:
            return match[0]
        place = site_path(target)
        if place is None:
            return match["text"]
        return f"{match['image']}[{match['text']}]({relpath(place, dirname(page) or '.')}{match['anchor'] or ''})"

    pieces = FENCE.split(markdown)
    for number in range(0, len(pieces), 2):
        unescaped = CODE.sub(lambda code: code[0].replace(r"\|", "|"), pieces[number])
        pieces[number] = LINK.sub(rewritten, unescaped)
    return "".join(pieces)


def _prose(markdown: str) -> list[str]:
    return FENCE.split(markdown)[::2]


def _target(written: str, path: str) -> str | None:
    """A file or folder of the repository, or None for an address elsewhere and for what is not there."""
    if "://" in written or written.startswith("mailto:"):
        return None
    target = normpath(join(dirname(path), written))
    return target if (ROOT / target).exists() else None
