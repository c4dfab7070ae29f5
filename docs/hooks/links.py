"""Turns links between files of the repository into links between pages of the site."""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import dirname, join, normpath, relpath

ROOT = Path(__file__).parent.parent.parent

ROOT_PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changes.md"}
"""Files outside docs/ that are pages of the site, with the paths of their pages."""

LINK = re.compile(r"(?P<image>!?)\[(?P<text>(?:[^][]|\[[^][]*\])*)\]\((?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")
CODE = re.compile(r"`[^`\n]+`")
FENCE = re.compile(r"^(```.*?^```)$", flags=re.DOTALL | re.MULTILINE)


def repository_path(page: str) -> str:
    """Return the repository path of a page's source: `README.md` for `index.md`."""
    root_files = {page_path: name for name, page_path in ROOT_PAGES.items()}
    return root_files.get(page, f"docs/{page}")


def site_path(path: str) -> str | None:
    """Return the path on the site of a file of the repository; None for a folder, which has no page."""
    if path in ROOT_PAGES:
        return ROOT_PAGES[path]
    if path.startswith("docs/") and Path(path).suffix in {".md", ".png"}:
        return path.removeprefix("docs/")
    if path.startswith("specs/") and path.endswith(".yaml"):
        return f"specs/{Path(path).stem}.md"
    return None if (ROOT / path).is_dir() else f"files/{path}.md"


def link_targets(markdown: str, path: str) -> list[str]:
    """Return the files of the repository that a file links to."""
    prose = FENCE.split(markdown)[::2]
    resolved = {_resolve_target(match["target"], path) for text in prose for match in LINK.finditer(text)}
    return sorted(target for target in resolved if target is not None)


def rewrite_links(markdown: str, page: str) -> str:
    """Rewrite a page's links for the site; a link to a folder becomes its text.

    Pipes in code are also unescaped: GitHub's tables need the escape, those of Python-Markdown must not have it.
    """
    path = repository_path(page)

    def rewrite(match: re.Match[str]) -> str:
        target = _resolve_target(match["target"], path)
        if target is None:
            return match[0]
        page_path = site_path(target)
        if page_path is None:
            return match["text"]
        return f"{match['image']}[{match['text']}]({relpath(page_path, dirname(page) or '.')}{match['anchor'] or ''})"

    parts = FENCE.split(markdown)  # prose and code blocks alternate
    for index in range(0, len(parts), 2):
        unescaped = CODE.sub(lambda code: code[0].replace(r"\|", "|"), parts[index])
        parts[index] = LINK.sub(rewrite, unescaped)
    return "".join(parts)


def _resolve_target(link: str, path: str) -> str | None:
    """Return the file or folder that a link leads to; None for a URL or a file that does not exist."""
    if "://" in link or link.startswith("mailto:"):
        return None
    target = normpath(join(dirname(path), link))
    return target if (ROOT / target).exists() else None
