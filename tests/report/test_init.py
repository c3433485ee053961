"""The page as Chromium shows it."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.slow


def _open(chromium: Browser, address: str, width: int) -> tuple[Page, list[str], list[str]]:
    """The page, what it asked for, and what Chromium complained of."""
    page = chromium.new_page(viewport={"width": width, "height": 800})
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(address, wait_until="load")
    return page, asked, complaints


@pytest.mark.parametrize("width", [1280, 390])
def test_it_opens_alone_and_whole(chromium: Browser, made: Path, width: int) -> None:
    """No complaint, no request but the file's own, all pictures and captions legible on a screen and on a phone."""
    address = (made / "report.html").as_uri()
    page, asked, complaints = _open(chromium, address, width)
    assert complaints == []
    assert {url for url in asked if not url.startswith("data:")} == {address}
    widths = page.eval_on_selector_all("img", "images => images.map(image => [image.naturalWidth, image.width])")
    assert len(widths) == 7
    for natural, shown in widths:
        # Neither blown up nor shrunk until its words cannot be read.
        assert min(natural, 700) <= shown <= natural
    captions = page.locator("caption:visible").all()
    assert captions
    for caption in captions:
        assert caption.evaluate("element => element.getBoundingClientRect().right") <= width
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.close()


def test_it_is_reached_by_its_links_and_unfolds(chromium: Browser, made: Path) -> None:
    """Every link of the navigation leads to its heading; a folded table opens on a click and shows its command."""
    page, _, _ = _open(chromium, (made / "report.html").as_uri(), 1280)
    for link in page.locator("nav a").all():
        link.click()
        heading = page.locator(str(link.get_attribute("href")))
        assert heading.inner_text() == link.inner_text()
        assert page.evaluate("element => element.getBoundingClientRect().top < 800", heading.element_handle())
    command = page.get_by_text("avsl train framework=dmt split.label_ratio=0.1", exact=True).first
    assert not command.is_visible()
    page.locator("summary", has_text="dmt, 10").first.click()
    assert command.is_visible()
    page.close()
