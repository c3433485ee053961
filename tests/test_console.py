"""What people see: tables keep what they are given, progress counts it."""

from __future__ import annotations

import re

import pytest

from avsl.console import print_notice, print_table, progress_bar


def test_a_piped_table_has_a_line_for_each_row_and_takes_nothing_for_markup(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Long cells stay on their line; brackets stay as they are; columns begin below their heads."""
    rows = [{"name": "clip[bold].mp4", "reason": "word " * 60}, {"name": "b", "reason": ""}]
    print_table(rows, "set [x]")
    title, head, first, second = capsys.readouterr().out.splitlines()
    assert title.strip() == "set [x]"
    assert first.split(maxsplit=1) == ["clip[bold].mp4", ("word " * 60).rstrip()]
    assert head.index("reason") == first.index("word")
    assert second.strip() == "b"
    print_table([])
    assert capsys.readouterr().out == ""


def test_a_notice_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """However long, and with brackets."""
    print_notice("[red] " + "x" * 300)
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "[red] " + "x" * 300 + "\n")


@pytest.mark.parametrize(("in_bytes", "counts"), [(False, r"3/4"), (True, r"3/4\s+bytes")])
def test_progress_counts_what_is_done(in_bytes: bool, counts: str, capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr, from what was done before, with what shows later to be the total."""
    with progress_bar("clip [1].mp4", None, completed=1, in_bytes=in_bytes) as bar:
        bar.advance()
        bar.advance(2)
        bar.advance(-1)
        bar.set_total(4)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "clip [1].mp4" in shown.err
    assert re.search(counts, shown.err)
