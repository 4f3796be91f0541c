"""JSON lists, CSV and gzipped files give the records that JSONL gives, a piece at a time."""

import gzip
import json
from pathlib import Path

import pytest
from prolong.common.data import record_streams
from prolong.common.data.records import read_records
from prolong.common.errors import DataError

RECORDS = [{"question": "é]" * number, "answer": [number, {"a": "x,y"}]} for number in range(40)]


def records_of(path: Path) -> list[object]:
    return [record for _, record in read_records(path)]


@pytest.mark.parametrize("chunk", [5, 64, 1 << 20])
def test_a_list_is_read_in_pieces_of_any_size(tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_streams, "CHUNK_CHARS", chunk)
    path = tmp_path / "list.json"
    for indent in (None, 1):
        path.write_text("\ufeff " + json.dumps(RECORDS, ensure_ascii=False, indent=indent), encoding="utf-8")
        assert records_of(path) == RECORDS
    assert [number for number, _ in read_records(path)] == list(range(1, 41))


def test_lines_in_a_file_named_json_are_lines(tmp_path: Path) -> None:
    path = tmp_path / "lines.json"
    path.write_text("\n".join(map(json.dumps, RECORDS)))
    assert records_of(path) == RECORDS


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz"])
def test_gzipped_files_are_unpacked(tmp_path: Path, name: str) -> None:
    text = "\n".join(map(json.dumps, RECORDS)) if "jsonl" in name else json.dumps(RECORDS)
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()))
    assert records_of(path) == RECORDS
    path.write_bytes(gzip.compress(text.encode())[:-40])
    with pytest.raises(DataError, match="cannot be read"):
        records_of(path)


def test_cells_of_a_table_are_texts(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('question,answer\n"a,\nb",3\nc\n')
    assert records_of(path) == [{"question": "a,\nb", "answer": "3"}, {"question": "c", "answer": None}]


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.json", '[{{"a": "{}"}}, {{"a": "1"}}]'), ("a.jsonl", '{{"a": "{}"}}\n{{"a": "1"}}\n'), ("a.csv", "a\n{}\n1\n")],
)
def test_a_record_that_is_not_utf8_is_named_and_never_altered(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_bytes(text.format("caf\u00e9").encode("latin-1"))
    first, second = records_of(path)
    assert isinstance(first, DataError)
    assert "utf" in str(first).lower()
    assert second == {"a": "1"}


@pytest.mark.parametrize(("text", "number"), [('[{"a": 1}, {"b"', 1), ("[nope]", 0), ('[{"a": 1}', 0)])
def test_a_list_that_is_cut_short_says_where(tmp_path: Path, text: str, number: int) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match=f"damaged after element {number}"):
        records_of(path)


def test_elements_that_are_no_objects_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[1, {"a": "\\ud83d"}, {"a": 1}]')
    first, second, third = records_of(path)
    assert "expected a JSON object" in str(first)
    assert "half of a surrogate pair" in str(second)
    assert third == {"a": 1}
