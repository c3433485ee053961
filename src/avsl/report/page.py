"""One HTML page that needs nothing but itself: no network, no script, every picture inside."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from avsl.viz.curves import encode_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image


@dataclass(frozen=True)
class Table:
    """A table; its first column names the rows.

    Attributes:
        caption: what it shows.
        columns: their heads.
        rows: cells as they are to be read, one for each column.
        text: the columns of words, which stand on the left; the others are figures.
        code: whether those words are commands and hashes.
        folded: whether it opens on a click.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: frozenset[str] = frozenset()
    code: bool = False
    folded: bool = False


@dataclass(frozen=True)
class Picture:
    """A picture within the page; on a narrow screen it keeps its size and is scrolled.

    Attributes:
        source: a ``data:`` address.
        title: stands over it.
        alt: what it shows, for who does not see it.
        caption: stands under it.
    """

    source: str
    title: str
    alt: str
    caption: str


@dataclass(frozen=True)
class Section:
    """Part of the page under a heading: words, then pictures, then tables."""

    title: str
    paragraphs: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()


def render(title: str, lead: Sequence[str], sections: Sequence[Section]) -> str:
    """The page's HTML; the same content gives the same text.

    Raises:
        ValueError: a row of a table has another number of cells than there are columns.
    """
    for table in (table for section in sections for table in section.tables):
        if wrong := next((row for row in table.rows if len(row) != len(table.columns)), None):
            raise ValueError(f"table '{table.caption}' has {len(table.columns)} columns, a row {len(wrong)} cells")
    environment = Environment(
        loader=PackageLoader("avsl", "report"), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.filters["zip"] = zip
    return environment.get_template("page.html.j2").render(title=title, lead=lead, sections=sections)


def embed_figure(figure: Figure) -> str:
    """A matplotlib figure as a ``data:`` address, SVG: sharp at every size."""
    return _address("svg+xml", encode_figure(figure, "svg"))


def embed_image(image: Image) -> str:
    """Photographs and maps as a ``data:`` address, JPEG: a tenth of a PNG's size."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=88)
    return _address("jpeg", stream.getvalue())


def _address(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
