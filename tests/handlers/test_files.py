"""`file_path`: every format, packed or not; files, globs, directories; splits by name, by slice, by share."""

import csv
import gzip
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ftactors.core.config import DatasetSourceConfig
from ftactors.core.errors import DatasetError
from handlers.files import FilesHandler

ROWS = [{"prompt": f"p{number}", "completion": f"c{number}, é\nand more"} for number in range(3)]


def handler(path, *, seed=0, **source) -> FilesHandler:
    return FilesHandler(DatasetSourceConfig(source_type="file_path", path_or_id=str(path), **source), seed=seed)


def rows(of: FilesHandler, split="train") -> list[dict]:
    return [dict(record.values) for record in of.records(split)]


def places(of: FilesHandler, split="train") -> list[str]:
    return [record.where for record in of.records(split)]


def write_jsonl(path: Path, values=ROWS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


def as_bytes(name: str) -> bytes:
    """The three rows in the format of a file of this name."""
    match name.split(".")[1]:
        case "jsonl":
            return "\n".join(json.dumps(row) for row in ROWS).encode()
        case "json":
            return json.dumps(ROWS, indent=1).encode()
        case "csv":
            text = io.StringIO(newline="")
            writer = csv.DictWriter(text, ["prompt", "completion"])
            writer.writeheader()
            writer.writerows(ROWS)
            return text.getvalue().encode()
        case "parquet":
            sink = io.BytesIO()
            pq.write_table(pa.Table.from_pylist(ROWS), sink)
            return sink.getvalue()
        case "arrow":
            return arrow_stream()
        case _:
            raise ValueError(name)


def arrow_stream() -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, pa.Table.from_pylist(ROWS).schema) as writer:
        writer.write_table(pa.Table.from_pylist(ROWS), max_chunksize=2)
    return sink.getvalue()


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet", "arrow"])
def test_each_format_yields_the_same_rows(tmp_path, suffix, packed):
    content = as_bytes(f"rows.{suffix}")
    path = tmp_path / f"rows.{suffix}{'.gz' * packed}"
    path.write_bytes(gzip.compress(content) if packed else content)

    assert rows(handler(path)) == ROWS


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_a_line_of_txt_is_a_row_of_text(tmp_path, packed):
    content = "\ufeffone\r\n\n  two é \n".encode()
    path = tmp_path / f"rows.txt{'.gz' * packed}"
    path.write_bytes(gzip.compress(content) if packed else content)

    assert rows(handler(path)) == [{"text": "one"}, {"text": ""}, {"text": "  two é "}]


def test_an_arrow_file_is_read_as_an_arrow_stream_is(tmp_path):
    with pa.ipc.new_file(tmp_path / "rows.arrow", pa.Table.from_pylist(ROWS).schema) as writer:
        writer.write_table(pa.Table.from_pylist(ROWS))

    assert rows(handler(tmp_path / "rows.arrow")) == ROWS


def test_json_lines_under_the_name_of_json_are_read(tmp_path):
    path = write_jsonl(tmp_path / "rows.json")

    assert rows(handler(path)) == ROWS


def test_the_format_that_is_named_wins_over_the_name(tmp_path):
    path = write_jsonl(tmp_path / "rows.log")

    assert rows(handler(path, format="jsonl")) == ROWS


def test_a_record_says_its_file_and_line(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n\n{"a": 2}\n')
    (tmp_path / "rows.csv").write_text('a,b\n1,"two\nlines"\n3,4\n')
    (tmp_path / "rows.json").write_text('[{"a": 1}, {"a": 2}]')

    assert places(handler(tmp_path / "rows.jsonl")) == ["rows.jsonl:1", "rows.jsonl:3"]
    assert places(handler(tmp_path / "rows.csv")) == ["rows.csv:2", "rows.csv:4"]
    assert places(handler(tmp_path / "rows.json")) == ["rows.json row 1", "rows.json row 2"]


def test_columns_are_those_of_all_of_the_first_rows(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"a": "1"}, {"a": "2", "b": "3"}])

    assert handler(path).columns("train") == ["a", "b"]


def test_rows_are_counted_beforehand_where_the_file_says_how_many(tmp_path):
    (tmp_path / "rows.parquet").write_bytes(as_bytes("rows.parquet"))

    assert handler(tmp_path / "rows.parquet").count("train") == 3
    assert handler(write_jsonl(tmp_path / "rows.jsonl")).count("train") is None


def test_a_single_file_is_the_train_split_whatever_its_name(tmp_path):
    path = write_jsonl(tmp_path / "test.jsonl")

    assert handler(path).split_names() == ["train"]


@pytest.mark.parametrize("names", [("train.jsonl", "dev.jsonl"), ("my-train-0.jsonl", "my_valid 2.jsonl")])
def test_the_splits_of_a_directory_are_in_the_names_of_its_files(tmp_path, names):
    write_jsonl(tmp_path / names[0], [{"text": "to train"}])
    write_jsonl(tmp_path / names[1], [{"text": "held out"}])
    source = handler(tmp_path, validation_split_name="validation")

    assert rows(source, "train") == [{"text": "to train"}]
    assert rows(source, "validation") == [{"text": "held out"}]
    assert places(source, "train") == [f"{names[0]}:1"]


def test_the_splits_of_a_directory_are_in_the_names_of_its_directories_before_those_of_files(tmp_path):
    write_jsonl(tmp_path / "train" / "part-val.jsonl", [{"text": "a"}])
    write_jsonl(tmp_path / "validation" / "train.jsonl", [{"text": "b"}])
    source = handler(tmp_path, validation_split_name="validation")

    assert rows(source, "train") == [{"text": "a"}]
    assert rows(source, "validation") == [{"text": "b"}]


def test_a_split_may_have_a_name_of_its_own(tmp_path):
    write_jsonl(tmp_path / "good.jsonl", [{"text": "a"}])
    write_jsonl(tmp_path / "held_out.jsonl", [{"text": "b"}])
    source = handler(tmp_path, train_split_name="good", validation_split_name="held_out")

    assert (rows(source, "train"), rows(source, "validation")) == ([{"text": "a"}], [{"text": "b"}])


def test_without_a_name_that_tells_a_split_all_files_are_trained_on_in_the_order_of_their_names(tmp_path):
    for name in ("b", "a", "constrained"):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"text": name}])

    assert [row["text"] for row in rows(handler(tmp_path))] == ["a", "b", "constrained"]


def test_what_lies_above_a_glob_tells_no_split(tmp_path):
    write_jsonl(tmp_path / "test" / "part-1.jsonl", [{"text": "1"}])
    write_jsonl(tmp_path / "test" / "part-2.jsonl", [{"text": "2"}])
    (tmp_path / "test" / "notes.txt").write_text("not asked for")

    assert rows(handler(tmp_path / "test" / "part-*.jsonl")) == [{"text": "1"}, {"text": "2"}]


def test_a_glob_reaches_into_directories(tmp_path):
    write_jsonl(tmp_path / "x" / "train" / "1.jsonl.part", [{"text": "1"}])
    write_jsonl(tmp_path / "y" / "test" / "2.jsonl.part", [{"text": "2"}])
    source = handler(tmp_path / "**" / "*.part", format="jsonl", validation_split_name="test")

    assert (rows(source, "train"), rows(source, "validation")) == ([{"text": "1"}], [{"text": "2"}])


def test_hidden_files_and_what_datasets_writes_beside_the_data_are_no_data(tmp_path):
    write_jsonl(tmp_path / ".hidden" / "rows.jsonl", [{"text": "hidden"}])
    write_jsonl(tmp_path / "rows.json", [{"text": "data"}])
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "README.md").write_text("about")

    assert rows(handler(tmp_path)) == [{"text": "data"}]


def test_a_slice_is_cut_as_datasets_cuts_it(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [{"n": number} for number in range(20)])
    source = handler(
        tmp_path / "rows.jsonl", train_split_name="train[:75%]", validation_split_name="train[-5:]", format="jsonl"
    )

    assert [row["n"] for row in rows(source, "train")] == list(range(15))
    assert [row["n"] for row in rows(source, "validation")] == list(range(15, 20))
    assert (source.count("train"), source.count("validation")) == (15, 5)


def test_a_share_is_held_out_by_the_seed_and_trained_on_by_nobody(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"n": number} for number in range(20)])
    first, again = (handler(path, validation_split_ratio=0.25, seed=1) for _ in range(2))
    other = handler(path, validation_split_ratio=0.25, seed=2)
    trained, held_out = rows(first, "train"), rows(first, "validation")

    assert (len(trained), len(held_out)) == (15, 5) == (first.count("train"), first.count("validation"))
    assert sorted(row["n"] for row in trained + held_out) == list(range(20))
    assert rows(again, "validation") == held_out != rows(other, "validation")


def test_a_small_share_of_few_rows_holds_out_one(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"n": number} for number in range(3)])

    assert handler(path, validation_split_ratio=0.01).count("validation") == 1


def test_no_share_is_held_out_where_there_is_a_validation_split(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", [{"n": number} for number in range(10)])
    write_jsonl(tmp_path / "validation.jsonl", [{"n": -1}])
    source = handler(tmp_path, validation_split_name="validation", validation_split_ratio=0.5)

    assert len(rows(source, "train")) == 10
    assert rows(source, "validation") == [{"n": -1}]


def test_the_fingerprint_follows_names_and_content(tmp_path):
    path = write_jsonl(tmp_path / "train.jsonl")
    before = handler(tmp_path).fingerprint()

    assert handler(tmp_path).fingerprint() == before
    path.write_text(path.read_text().replace("p1", "p9"))
    after = handler(tmp_path).fingerprint()
    assert after != before
    path.rename(tmp_path / "training.jsonl")
    assert handler(tmp_path).fingerprint() not in (before, after)


def test_a_missing_path_names_what_is_close_or_there(tmp_path):
    write_jsonl(tmp_path / "train.jsonl")

    with pytest.raises(DatasetError, match=r"trian\.jsonl: does not exist; did you mean 'train\.jsonl'\?$"):
        handler(tmp_path / "trian.jsonl").columns("train")
    with pytest.raises(DatasetError, match=r"other\.csv: does not exist; .* holds train\.jsonl$"):
        handler(tmp_path / "other.csv").columns("train")


def test_a_glob_without_a_file_names_what_is_there(tmp_path):
    write_jsonl(tmp_path / "data" / "train.jsonl")

    with pytest.raises(DatasetError, match=r"\*\.csv: matches no file; .* holds train\.jsonl$"):
        handler(tmp_path / "data" / "*.csv").columns("train")


def test_a_directory_without_data_names_what_is_there(tmp_path):
    (tmp_path / "README.md").write_text("about")

    with pytest.raises(DatasetError, match=r"has no file of a known format; .* holds README\.md$"):
        handler(tmp_path).columns("train")


def test_a_missing_split_names_those_that_are_there(tmp_path):
    write_jsonl(tmp_path / "train.jsonl")
    write_jsonl(tmp_path / "test.jsonl")

    with pytest.raises(DatasetError, match=r"has no split 'validation'; it has 'test', 'train'"):
        list(handler(tmp_path, validation_split_name="validation").records("validation"))


def test_names_that_tell_two_formats_are_refused(tmp_path):
    write_jsonl(tmp_path / "a.jsonl")
    (tmp_path / "b.txt").write_text("text")

    with pytest.raises(DatasetError, match=r"do not tell one format \(1 jsonl, 1 txt\)"):
        handler(tmp_path).columns("train")


BROKEN = {
    "line.jsonl": (b'{"a": 1}\n{"a": }\n', r"line\.jsonl:2: is not JSON: Expecting value at column 7"),
    "list.jsonl": (b'{"a": 1}\n[1]\n', r"list\.jsonl:2: is an array, where each line must be an object"),
    "number.jsonl": (b"17\n", r"number\.jsonl:1: is a number, where"),
    "deep.jsonl": (b"[" * 200_000 + b"\n", r"deep\.jsonl:1: is not JSON that can be read"),
    "latin.jsonl": (b'{"a": 1}\n{"a": "\xe9"}\n', r"latin\.jsonl:2: is not UTF-8: byte 0xe9 at column 8"),
    "wide.jsonl": ('{"a": 1}\n'.encode("utf-16"), r"wide\.jsonl:1: is not UTF-8"),
    "array.json": (b'[{"a": 1},\n{"a": 2},,\n]', r"array\.json:2: is not JSON: Expecting value at column 10"),
    "strings.json": (b'[{"a": 1}, "b"]', r"strings\.json row 2: is a string, where each row must be an object"),
    "fields.csv": (b"a,b\n1,2\n3\n", r"fields\.csv:3: has 1 fields, but the header has 2"),
    "quote.csv": (b'a,b\n1,2\n3,"4\n', r"quote\.csv:3: is not CSV: unexpected end of data"),
    "twice.csv": (b"a,a\n1,2\n", r"twice\.csv:1: the header names a column twice: a, a"),
    "binary.txt": (b"fine\n\xff\xfe\x00", r"binary\.txt:2: is not UTF-8: byte 0xff at column 1"),
    "no.parquet": (b"not parquet at all", r"no\.parquet: cannot be read as parquet: "),
    "cut.parquet": (as_bytes("x.parquet")[:-20], r"cut\.parquet: cannot be read as parquet: "),
    "no.arrow": (b"not arrow at all", r"no\.arrow: cannot be read as arrow: "),
    "cut.arrow": (as_bytes("x.arrow")[:-100], r"cut\.arrow: cannot be read"),
    "no.jsonl.gz": (b'{"a": 1}', r"no\.jsonl\.gz: is not a whole gzip file: "),
    "cut.jsonl.gz": (gzip.compress(as_bytes("x.jsonl"))[:-9], r"cut\.jsonl\.gz: is not a whole gzip file: "),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_an_error_with_file_line_and_reason(tmp_path, name):
    content, message = BROKEN[name]
    (tmp_path / name).write_bytes(content)

    with pytest.raises(DatasetError, match=message):
        rows(handler(tmp_path / name))


def test_a_slice_that_is_none_is_refused(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl")

    with pytest.raises(DatasetError, match=r"'train\[5\]' is not a slice such as 'train\[:10%\]'"):
        rows(handler(path, train_split_name="train[5]"))


def test_a_share_cannot_be_held_out_of_a_single_row(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"n": 1}])

    with pytest.raises(DatasetError, match="has 1 rows, too few to hold out a share"):
        rows(handler(path, validation_split_ratio=0.5))
