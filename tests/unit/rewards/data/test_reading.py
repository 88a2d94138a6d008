"""Every row of a source comes out once: used, or left out for a reason. Small rows of each form, and the real files."""

import bz2
import gzip
import json
import lzma
import random
from collections import Counter

import pyarrow
import pyarrow.parquet
import pytest

from configs import UserError
from configs.data import DataConfig, SourceConfig
from rewards.comparisons import Comparison, Demonstration, PromptRecord
from rewards.data import reading
from rewards.data.reading import ReadRow, read_source, read_sources
from rewards.data.sources import find_sources
from rewards.data.splits import content_id
from rewards.data.unusable import Unusable

ROWS = [{"prompt": f"question {i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(300)]


def read(path, normalize=False, **settings):
    """All rows of one source."""
    (source,) = find_sources(DataConfig(sources=[SourceConfig(path=str(path), **settings)]))
    return list(read_source(source, normalize))


def records(path, **settings):
    return [record for row in read(path, **settings) for record in row.records]


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


@pytest.fixture
def one(tmp_path):
    """Writes rows into a file, and reads them."""

    def write_and_read(*rows, **settings):
        (tmp_path / "rows.jsonl").write_bytes(lines(rows))
        return read(tmp_path / "rows.jsonl", **settings)

    return write_and_read


def said(row):
    """The pairs of a row, as (last words of the prompt, chosen, rejected, tie, rater)."""
    ends = [r.prompt if isinstance(r.prompt, str) else r.prompt[-1]["content"] for r in row.records]
    return [(end, r.chosen, r.rejected, r.tie, r.rater) for end, r in zip(ends, row.records, strict=True)]


# -- forms ------------------------------------------------------------------------------------------------------------


def test_raters_are_kept_apart_and_a_tie_is_a_tie(one):
    row = {"instruction": "Say it", "input": "more", "response1": "a", "response2": "b", "annotator1": 1, "annotator2": 2, "annotator3": 0}
    (found,) = one(row)
    prompt = "Say it\n\nmore"
    assert said(found) == [
        (prompt, "a", "b", False, "annotator1"),
        (prompt, "b", "a", False, "annotator2"),
        (prompt, "a", "b", True, "annotator3"),
    ]
    (found,) = one({"input": "Say it", "output_1": "a", "output_2": "b", "label": "2"})
    assert said(found) == [("Say it", "b", "a", False, "")]


def test_a_verdict_that_is_none_is_left_out_by_itself(one):
    row = {"input": "q", "response1": "a", "response2": "b", "annotator1": 3, "annotator2": True, "annotator3": 1}
    (found,) = one(row)
    assert found.left_out == ("annotator1 is not 0, 1 or 2", "annotator2 is not 0, 1 or 2") and len(found.records) == 1
    (lost,) = one(row | {"annotator3": None})
    assert lost.reason == "annotator1 is not 0, 1 or 2"


def message(text, role, rank=None, *replies, **more):
    return {"text": text, "role": role, "rank": rank, "replies": list(replies)} | more


def test_each_two_ranked_answers_of_a_tree_are_compared(one):
    """Three ranked answers give 3 pairs. The third has a follow-up with two answers of one rank, of which a third one was deleted."""
    follow_up = message(
        "why", "prompter", None, message("x", "assistant", 0), message("y", "assistant", 0), message("z", "assistant", 1, deleted=True)
    )
    answers = [message("worst", "assistant", 2, follow_up), message("best", "assistant", 0), message("middle", "assistant", 1)]
    (found,) = one({"message_tree_id": "1", "prompt": message("q", "prompter", None, *answers)})
    assert said(found) == [
        ("q", "best", "middle", False, ""),
        ("q", "best", "worst", False, ""),
        ("q", "middle", "worst", False, ""),
        ("why", "x", "y", True, ""),
    ]
    assert found.left_out == ("an answer was deleted",)
    assert found.records[3].prompt == [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "worst"},
        {"role": "user", "content": "why"},
    ]
    (lost,) = one({"prompt": message("q", "prompter", None, message("only one", "assistant", 0))})
    assert lost.reason == "there is nothing to compare in it"


def answer(id, score, text):
    return {"id": id, "score": score, "body_html": f"<p>{text}</p>", "date": "2020"}


def test_votes_are_compared_by_their_logarithm(one):
    """round(log2(1 + votes)): 7 gives 3, 6 gives 3 (2.81), 1 gives 1; -2 gives -1; the accepted one of 1 vote gives 2."""
    answers = [answer(1, 7, "seven"), answer(2, 6, "six"), answer(3, 1, "accepted"), answer(4, -2, "negative")]
    (found,) = one({"title": "T", "body_html": "<p>B</p>", "accepted": 3, "answers": answers})
    assert [(pair.chosen, pair.rejected) for pair in found.records] == [
        ("seven", "accepted"),
        ("seven", "negative"),
        ("six", "accepted"),
        ("six", "negative"),
        ("accepted", "negative"),
    ]
    assert {pair.prompt for pair in found.records} == {"T\n\nB"}
    reasons = [row.reason for row in one(*({"title": "T", "answers": given} for given in ([answers[0]], answers[:2])))]
    assert reasons == ["a question with fewer than two answers", "the answers to a question have equal votes"]


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"question": "2 + 2?", "answer": "#### 4"}, "2 + 2?"),
        ({"intent": "sort it", "rewritten_intent": "sort `x`", "snippet": "x.sort()"}, "sort `x`"),
        ({"intent": "sort it", "rewritten_intent": None, "snippet": "x.sort()"}, "sort it"),
        ({"instruction": "Translate", "input": "mango", "output": "มะม่วง"}, "Translate\n\nmango"),
        ({"instruction": "Say", "context": "", "response": "it"}, "Say"),
        ({"prompt": "q", "completion": "a"}, "q"),
        ({"prompt": "q"}, "q"),
        ({"prompt": [{"role": "user", "content": "q"}]}, [{"role": "user", "content": "q"}]),
        ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, [{"role": "user", "content": "q"}]),
        (
            {"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
            [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}],
        ),
    ],
)
def test_what_has_no_two_answers_is_a_prompt(one, row, prompt):
    (found,) = one(row)
    assert found.records == (PromptRecord(content_id(prompt), prompt, "rows"),)
    if "conversations" in row:  # which may hold pairs too, so each row is judged
        assert one(row, kind="pairs")[0].reason == "it has no two answers to compare"
    else:
        with pytest.raises(UserError, match="no two answers to compare"):
            one(row, kind="pairs")


def test_a_single_answer_is_kept_where_it_is_asked_for(one):
    asked, said = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    for row, prompt in (
        ({"question": "q", "answer": "a"}, "q"),
        ({"prompt": "q", "completion": [said]}, "q"),
        ({"messages": [asked, said]}, [asked]),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, [asked]),
    ):
        (found,) = one(row, kind="answers")
        assert found.records == (Demonstration(content_id(prompt), prompt, "a", "rows"),)
    rows = one({"question": "q", "answer": " "}, {"question": "q", "answer": 7}, {"question": "", "answer": "a"}, kind="answers")
    assert [row.reason for row in rows] == ["the answer is empty", "it has no answer", "the prompt is empty"]
    assert one({"messages": [asked]}, kind="answers")[0].reason == "it has no answer"
    for row in (ROWS[0], {"prompt": "q"}):
        with pytest.raises(UserError, match="rows has no single answers"):
            one(row, kind="answers")


def test_turns_of_tools_and_parts_of_text_are_kept(one):
    call = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    prompt = [
        {"role": "system", "content": "Be kind"},
        {"role": "user", "content": [{"type": "text", "text": "How is "}, {"type": "text", "text": "Bangkok?"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "name": "weather", "tool_call_id": "1", "content": "hot", "other": 3},
    ]
    (found,) = one(
        {"prompt": prompt, "chosen": "Hot.", "rejected": [{"role": "assistant", "content": [{"type": "text", "text": "Cold."}]}]}
    )
    assert found.records[0].prompt == [
        {"role": "system", "content": "Be kind"},
        {"role": "user", "content": "How is Bangkok?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "hot", "name": "weather", "tool_call_id": "1"},
    ]
    assert (found.records[0].chosen, found.records[0].rejected) == ("Hot.", "Cold.")
    (lost,) = one({"prompt": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "chosen": "a", "rejected": "b"})
    assert lost.reason == "a message has a part that is no text (image_url)"


def test_pairs_in_the_form_of_sharegpt(one):
    asked = [{"from": "human", "value": "q"}]
    (found,) = one({"conversations": asked, "chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}})
    assert said(found) == [("q", "a", "b", False, "")]
    rows = one({"conversations": [{"from": "function_call", "value": "{}"}]}, {"conversations": [{"from": "cat", "value": "q"}]})
    assert [row.reason for row in rows] == [
        "a turn calls a function in ShareGPT's form",
        "a turn's from is no role of ShareGPT's form",
    ]


def test_the_format_can_be_given_and_columns_renamed(one):
    (found,) = one({"question": "q", "answers": [1], "title": "t"}, columns={"prompt": "question"})
    assert found.records[0].prompt == "q"
    with pytest.raises(UserError, match="no row has the columns of the format rated"):
        one(ROWS[0], format="rated")
    (found,) = one(ROWS[0], kind="prompts")
    assert found.records == (PromptRecord(content_id("question 0"), "question 0", "rows"),)


def test_a_row_names_its_rater(one):
    rows = one(ROWS[0] | {"rater": "ann", "tie": True}, ROWS[0] | {"rater": 7}, ROWS[0] | {"rater": None})
    assert [(row.records[0].rater, row.records[0].tie) for row in rows] == [("ann", True), ("7", False), ("", False)]


def test_a_row_names_its_part_of_the_source(one):
    rows = one(ROWS[0] | {"source": "mail"}, ROWS[1], ROWS[2] | {"source": "notes"}, name="notes")
    assert [row.records[0].source for row in rows] == ["notes/mail", "notes", "notes"]


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("pairs.jsonl", bytes),
        ("PAIRS.JSONL", bytes),
        ("pairs.ndjson", bytes),
        ("pairs.jsonl.gz", gzip.compress),
        ("Pairs.JsonL.XZ", lzma.compress),
        ("pairs.jsonl.bz2", bz2.compress),
        ("pairs.jsonl.zst", lambda data: pyarrow.compress(data, "zstd", asbytes=True)),
    ],
)
def test_names_and_packers(tmp_path, name, pack):
    (tmp_path / name).write_bytes(pack(lines(ROWS)))
    assert [r.chosen for r in records(tmp_path / name)] == [row["chosen"] for row in ROWS]
    (source,) = find_sources(DataConfig(source=str(tmp_path / name)))
    assert source.name.lower() == "pairs"


def test_tables_and_what_save_to_disk_wrote(tmp_path):
    table = pyarrow.Table.from_pylist(ROWS)
    pyarrow.parquet.write_table(table, tmp_path / "pairs.parquet", row_group_size=70)
    with pyarrow.OSFile(str(tmp_path / "pairs.arrow"), "wb") as file, pyarrow.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=70)
    with pyarrow.OSFile(str(tmp_path / "stream.arrow"), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=70)
    for name in ("pairs.parquet", "pairs.arrow", "stream.arrow"):
        rows = read(tmp_path / name)
        assert [row.records[0].chosen for row in rows] == [row["chosen"] for row in ROWS]
        assert rows[-1].place == f"{tmp_path / name}, row 300"
    (tmp_path / "broken.parquet").write_bytes((tmp_path / "pairs.parquet").read_bytes()[:-100])
    with pytest.raises(UserError, match="the data cannot be read"):
        read(tmp_path / "broken.parquet")


def test_folders_that_save_to_disk_wrote(tmp_path):
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_list(ROWS)
    table.save_to_disk(tmp_path / "saved", num_shards=2)
    datasets.DatasetDict({"train": table, "test": table.select(range(3))}).save_to_disk(tmp_path / "both")
    assert len(records(tmp_path / "saved")) == 300
    assert [r.chosen for r in records(tmp_path / "both", split="test")] == ["good 0", "good 1", "good 2"]
    with pytest.raises(UserError, match="no split 'validation'"):
        read(tmp_path / "both", split="validation")


def test_a_data_set_of_the_hub(monkeypatch):
    """The hub cannot be reached from here, so a function stands in for what loads its data sets."""
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(*names, **settings):
        asked.append((names, settings))
        if names[0] == "somebody/none":
            raise ValueError("there is no such data set") from ConnectionError("ignored")
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = records("somebody/pairs", config_name="th", split="test", revision="v1")
    assert [r.chosen for r in found] == [row["chosen"] for row in ROWS] and {r.source for r in found} == {"somebody/pairs"}
    assert asked == [(("somebody/pairs", "th"), {"split": "test", "revision": "v1"})]
    (source,) = find_sources(DataConfig(source="somebody/pairs", split="validation"))
    assert next(iter(read_source(source, False))).place == "somebody/pairs, row 1"
    assert asked[-1][1] == {"split": "validation", "revision": None}
    with pytest.raises(UserError, match="the data set cannot be loaded: ignored"):
        read("somebody/none")


def test_a_pattern_is_one_source_with_several_files(tmp_path):
    for part in range(3):
        (tmp_path / f"part-{part}.jsonl").write_bytes(lines(ROWS[part * 100 : part * 100 + 100]))
    found = records(tmp_path / "part-*.jsonl")
    assert [r.chosen for r in found] == [row["chosen"] for row in ROWS] and len({r.source for r in found}) == 1


def test_several_files_are_several_sources(tmp_path):
    for name in ("a/pairs.jsonl", "b/pairs.jsonl", "c.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(lines(ROWS[:1]))
    paths = [str(tmp_path / name) for name in ("a/pairs.jsonl", "b/pairs.jsonl", "c.jsonl")]
    rows = read_sources(DataConfig(source=paths))
    assert [(source.name, row.records[0].source) for source, row in rows] == [(p, p) for p in paths[:2]] + [("c", "c")]
    named = find_sources(DataConfig(sources=[{"path": paths[0], "name": "c"}, {"path": paths[2]}]))
    assert [source.name for source in named] == ["c", paths[2]]
    with pytest.raises(UserError, match="two sources have the name"):
        find_sources(DataConfig(source=[paths[0], paths[0]]))


def test_the_embedded_world_has_no_rows():
    assert list(read_sources(DataConfig())) == []


def test_a_source_of_which_nothing_can_be_read(tmp_path, monkeypatch):
    """A few broken lines are counted, because another source may have pairs. A long file of them is refused at once."""
    (tmp_path / "rows.jsonl").write_text("broken\n" * 30)
    assert [row.reason for row in read(tmp_path / "rows.jsonl")] == ["not JSON"] * 30
    monkeypatch.setattr(reading, "GIVEN_UP_AT", 20)
    with pytest.raises(UserError, match="none of the first 20 rows can be read; the first one: line 1 is not JSON"):
        read(tmp_path / "rows.jsonl")
    (tmp_path / "rows.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="cannot be told by its columns"):
        read(tmp_path / "rows.jsonl")


def test_broken_files_are_accounted_for(tmp_path):
    """500 files of lines that are cut, doubled, replaced by other JSON, or filled with bytes: each line is used, or left out once."""
    rng = random.Random(0)
    damages = [
        lambda line: line[: rng.randrange(len(line))],
        lambda line: line + line,
        lambda line: bytes(rng.randrange(256) for _ in range(9)).replace(b"\n", b""),
        lambda line: json.dumps(rng.choice([None, 3, "x", [], {}, {"chosen": 1, "rejected": {}, "prompt": []}])).encode(),
        lambda line: line.replace(b"question", b"\\ud800"),
        lambda line: line.replace(b'"', b"'", 1),
    ]
    for number in range(500):
        good = [json.dumps(row).encode() for row in ROWS[:6]]
        broken = [rng.choice(damages)(line) if rng.random() < 0.5 else line for line in good[1:]]
        content = [good[0], *(line for line in broken if line.strip(b" \t\r\n"))]
        path = tmp_path / f"{number}.jsonl"
        path.write_bytes(b"\n".join(content))
        rows = read(path, normalize=True)
        assert len(rows) == len(content)
        for row, line in zip(rows, content, strict=True):
            assert isinstance(row, Unusable) == (line not in good), line
            assert not isinstance(row, Unusable) or (row.reason and row.place and len(row.excerpt) <= 80)


# -- real files -------------------------------------------------------------------------------------------------------

REAL = [
    # folder, file, settings -> rows, used, records, and the reasons for the rows that are left out
    ("hh_harmless", "pairs.jsonl.gz", {}, 1629, 1625, 1625, {"chosen is empty": 3, "the dialogues differ before the last answer": 1}),
    ("llmbar", "llmbar.jsonl.gz", {}, 885, 883, 883, {"chosen and rejected are the same": 1, "output_2 is empty": 1}),
    ("gsm8k", "train.jsonl.gz", {}, 7473, 7473, 7473, {}),
    ("conala", "*.jsonl.gz", {}, 3275, 3275, 3275, {}),
    ("oasst_en100", "samples_*.jsonl.gz", {}, 300, 300, 300, {}),
    ("tatoeba_en_th", "tatoeba_en_th.jsonl.gz", {"columns": {"prompt": "th"}}, 548, 548, 548, {}),
    ("xquad_th_en", "xquad_th.jsonl.gz", {"columns": {"prompt": "question"}}, 1190, 1190, 1190, {}),
    ("thai_prompts_broken", "vincuna_th.BROKEN.jsonl", {"columns": {"prompt": "text_th"}}, 80, 40, 40, {"not JSON": 40}),
]


@pytest.mark.parametrize(("folder", "file", "settings", "rows", "used", "held", "left_out"), REAL, ids=[case[0] for case in REAL])
def test_real_files(shared_data, folder, file, settings, rows, used, held, left_out):
    """The numbers of rows are those of shared/data/README.md; that of conala is the sum over its languages."""
    found = read(shared_data / folder / file, **settings)
    assert len(found) == rows
    assert Counter(row.reason for row in found if isinstance(row, Unusable)) == left_out
    good = [row for row in found if isinstance(row, ReadRow)]
    assert (len(good), sum(len(row.records) for row in good)) == (used, held) and used + sum(left_out.values()) == rows


def test_real_raters(shared_data):
    """PandaLM: every row that is left out has an answer that is empty or no text, and every other has three raters."""
    found = read(shared_data / "pandalm_test" / "testset-v1.jsonl.gz")
    assert len(found) == 999
    assert {row.reason.split(maxsplit=1)[1] for row in found if isinstance(row, Unusable)} == {"is empty", "is not text"}
    assert all(len(row.records) == 3 for row in found if isinstance(row, ReadRow))


def test_real_trees(shared_data):
    """Open-Assistant: as many pairs as a count of the ranked answers below each message of a user says, n (n - 1) / 2 each."""

    def count(message):
        ranked = [r for r in message["replies"] if message["role"] == "prompter" and r.get("rank") is not None]
        return len(ranked) * (len(ranked) - 1) // 2 + sum(count(reply) for reply in message["replies"])

    path = shared_data / "oasst_en100" / "en_100_tree.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        expected = [count(json.loads(line)["prompt"]) for line in file]
    found = read(path)
    assert [len(row.records) for row in found] == expected and sum(expected) == 754
    assert all(isinstance(record, Comparison) for row in found for record in row.records)
    assert Counter(reason for row in found for reason in row.left_out) == {"an answer has no rank": 6}


def test_real_votes(shared_data):
    """Stack Exchange: no tag is left in a text, code is kept, and the rows add up."""
    found = read(shared_data / "stackexchange" / "genai.jsonl.gz")
    left_out = Counter(row.reason for row in found if isinstance(row, Unusable))
    pairs = [record for row in found if isinstance(row, ReadRow) for record in row.records]
    assert len(found) == 181 and left_out["a question with fewer than two answers"] == 39 + 84
    texts = [text for pair in pairs for text in (pair.prompt, pair.chosen, pair.rejected)]
    assert not any(tag in text for text in texts for tag in ("<p>", "</li>", "<a href", "&lt;", "&nbsp;"))
    assert any("```\n" in text for text in texts)
