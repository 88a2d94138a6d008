"""CSV: every cell is the text that it is, but for the columns that say true, false or a number."""

import gzip

import pytest

from configs import UserError
from rewards.data.csv_rows import try_csv
from rewards.data.unusable import BadLine


@pytest.mark.parametrize("name", ["f.csv", "f.csv.gz"])
def test_cells_are_text(tmp_path, name):
    content = '\ufeffprompt,chosen,rejected\r\n1+1,2,007\r\nq,NA,None\r\nq,"two\nlines, and \u2028",\r\n'.encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert list(try_csv(tmp_path / name)) == [
        ("line 2", {"prompt": "1+1", "chosen": "2", "rejected": "007"}),
        ("line 3", {"prompt": "q", "chosen": "NA", "rejected": "None"}),
        ("line 5", {"prompt": "q", "chosen": "two\nlines, and \u2028", "rejected": ""}),
    ]


def test_columns_that_are_no_text(tmp_path):
    """What is empty says nothing. What is neither empty nor of its kind stays as it is: `parse_row` refuses it and says why."""
    (tmp_path / "f.csv").write_text("prompt,tie,score_chosen,score_rejected\n1,True,1,1.5\n,false,,\nq,,x,-1e3\nq,0,7,7\n")
    assert [tuple(row.values()) for _, row in try_csv(tmp_path / "f.csv")] == [
        ("1", True, 1.0, 1.5),
        (None, False, None, None),
        ("q", None, "x", -1000.0),
        ("q", "0", 7.0, 7.0),
    ]


def test_columns_that_are_no_text_may_have_names_of_their_own(tmp_path):
    (tmp_path / "f.csv").write_text("asked,equal,s,tie\n,true,1,2\n")
    names = {"prompt": "asked", "tie": "equal", "score_chosen": "s"}
    assert list(try_csv(tmp_path / "f.csv", names)) == [("line 2", {"asked": None, "equal": True, "s": 1.0, "tie": "2"})]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"a,a\n1,2\n", "the column 'a' is there twice"),
        (b"a,b\n1,2\n1,\xe9\n", "not UTF-8 text: byte 0xe9"),
        (b'a,b\n1,"2\n', "not CSV: unexpected end of data"),
        (b'a,b\n1,"2"3\n', "not CSV: ',' expected after"),
    ],
)
def test_what_is_refused(tmp_path, content, why):
    (tmp_path / "f.csv").write_bytes(content)
    with pytest.raises(UserError, match=why) as caught:
        list(try_csv(tmp_path / "f.csv"))
    assert str(tmp_path / "f.csv") in caught.value.where


def test_a_row_with_other_cells_than_columns_is_told_apart(tmp_path):
    """It is the row that is wrong, and the next one can be read."""
    (tmp_path / "f.csv").write_bytes(b"a,b\n1,2,3\n1\n\n1,2\n")
    rows = list(try_csv(tmp_path / "f.csv"))
    assert [(place, row.what if isinstance(row, BadLine) else row) for place, row in rows] == [
        ("line 2", "line 2 has more cells than there are columns"),
        ("line 3", "line 3 has fewer cells than there are columns"),
        ("line 5", {"a": "1", "b": "2"}),
    ]


def test_a_long_cell(tmp_path):
    (tmp_path / "f.csv").write_text("a\n" + "x" * 200_000)
    assert len(next(try_csv(tmp_path / "f.csv"))[1]["a"]) == 200_000


def test_a_file_that_is_no_gzip(tmp_path):
    (tmp_path / "f.csv.gz").write_bytes(b"a,b")
    with pytest.raises(UserError, match="cannot be read"):
        list(try_csv(tmp_path / "f.csv.gz"))
