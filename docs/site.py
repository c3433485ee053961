"""MkDocs hooks: pages and pictures from outside docs/, at the same places relative to each other."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_ROOT = Path(__file__).resolve().parents[1]
_OUTSIDE = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "benchmarks/**/*.md",
    "benchmarks/**/*.png",
    "benchmarks/**/*.csv",
)
_LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)\s#]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what the pages link to; the README is the first page."""
    for path in sorted(path for pattern in _OUTSIDE for path in _ROOT.glob(pattern)):
        at = path.relative_to(_ROOT).as_posix()
        files.append(File.generated(config, _place(at), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links, which are right in the repository, at the site's pages."""
    source = Path(str(page.file.abs_src_path)).relative_to(_ROOT).parent.as_posix()
    here = posixpath.dirname(page.file.src_uri)

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(source, link[2]))
        return link[1] + posixpath.relpath(_place(target), here or ".")

    return _LINK.sub(moved, markdown)


def _place(path: str) -> str:
    """The place in the site of a file of the repository."""
    return "index.md" if path == "README.md" else path.removeprefix("docs/")
