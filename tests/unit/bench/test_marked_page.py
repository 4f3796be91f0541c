"""The part of a page that a bench writes."""

from pathlib import Path

import pytest
from prolong.bench.marked_page import marked_part, replace_marked
from prolong.common.errors import UserError


def test_the_part_between_the_marks_is_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("é\n<a>\nyesterday\n<b>\nbehind\n", encoding="utf-8")
    for text in ("first\n", "second\n"):
        replace_marked(page, "<a>", "<b>", text)
    assert marked_part(page, "<a>", "<b>") == ("é\n", "\nsecond\n", "\nbehind\n")


@pytest.mark.parametrize("text", ["no marks", "<a> only", "only <b>", "<b> <a>"])
def test_a_page_without_both_marks_is_refused_and_stays(text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(UserError, match="expected a page with the lines <a> and <b>"):
        replace_marked(page, "<a>", "<b>", "part")
    assert page.read_text() == text
