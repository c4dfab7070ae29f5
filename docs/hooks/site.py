"""What MkDocs is given besides docs/: front page, changes, shipped specs, linked files, and the spec reference."""

from __future__ import annotations

from pathlib import Path

import links
import reference
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".sbatch": "bash", ".json": "json"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the generated pages where the navigation names them by a word."""
    generated = {"reference": reference.navigation(), "specs": sorted(f"specs/{name}.md" for name in _specs())}
    assert config.nav is not None
    for entry in config.nav:
        [(title, place)] = entry.items()
        if isinstance(place, str) and place in generated:
            entry[title] = generated[place]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are no files of docs/."""
    sources = [*links.FRONT, *(f"docs/{file.src_uri}" for file in files.documentation_pages())]
    pages = {page: (links.ROOT / name).read_text(encoding="utf-8") for name, page in links.FRONT.items()}
    pages |= reference.pages()
    pages |= {f"specs/{name}.md": _as_code(f"specs/{name}.yaml") for name in _specs()}
    for source in sources:
        for target in links.targets((links.ROOT / source).read_text(encoding="utf-8"), source):
            place = links.site_path(target)
            if place is not None and place.startswith("files/"):
                pages[place] = _as_code(target)
    for place, markdown in pages.items():
        files.append(File.generated(config, place, content=markdown))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links for the site."""
    return links.on_site(markdown, page.file.src_uri)


def _specs() -> list[str]:
    return [path.stem for path in (links.ROOT / "specs").glob("*.yaml")]


def _as_code(path: str) -> str:
    """A page that shows a file."""
    text = (links.ROOT / path).read_text(encoding="utf-8")
    fence = "````" if "```" in text else "```"
    return f"# {Path(path).name}\n\n`{path}`\n\n{fence}{LANGUAGES.get(Path(path).suffix, '')}\n{text}\n{fence}\n"
