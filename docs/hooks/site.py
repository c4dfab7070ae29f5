"""MkDocs hooks that add pages from outside docs/: README, changelog, shipped specs, linked files, spec reference."""

from __future__ import annotations

from pathlib import Path

import links
import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".sbatch": "bash", ".json": "json"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Replace the placeholders `reference` and `specs` in the navigation by the generated pages."""
    generated = {"reference": reference.navigation(), "specs": sorted(f"specs/{name}.md" for name in _spec_names())}
    assert config.nav is not None
    for entry in config.nav:
        [(title, value)] = entry.items()
        if isinstance(value, str) and value in generated:
            entry[title] = generated[value]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not files of docs/."""
    sources = [*links.ROOT_PAGES, *(f"docs/{file.src_uri}" for file in files.documentation_pages())]
    pages = {page: (links.ROOT / name).read_text(encoding="utf-8") for name, page in links.ROOT_PAGES.items()}
    pages |= reference.pages()
    pages |= {f"specs/{name}.md": _code_page(f"specs/{name}.yaml") for name in _spec_names()}
    for source in sources:
        for target in links.link_targets((links.ROOT / source).read_text(encoding="utf-8"), source):
            path = links.site_path(target)
            if path is not None and path.startswith("files/"):
                pages[path] = _code_page(target)
    for path, markdown in pages.items():
        files.append(File.generated(config, path, content=markdown))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the links of a page for the site."""
    return links.rewrite_links(markdown, page.file.src_uri)


def _spec_names() -> list[str]:
    return [path.stem for path in (links.ROOT / "specs").glob("*.yaml")]


def _code_page(path: str) -> str:
    """Return a page that shows the text of a file."""
    text = (links.ROOT / path).read_text(encoding="utf-8")
    fence = "````" if "```" in text else "```"
    return f"# {Path(path).name}\n\n`{path}`\n\n{fence}{LANGUAGES.get(Path(path).suffix, '')}\n{text}\n{fence}\n"
