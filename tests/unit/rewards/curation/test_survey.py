"""What `loop data` finds: the numbers of two small files, and the same ledger as that of a run."""

import gzip
import json

import pytest

from configs.schema import RunConfig
from rewards.curation.survey import QUANTILES, survey
from rewards.data.preference_data import load_preference_data
from rewards.data.splits import Split

FRACTION = 0.3
LAW = Split(0, FRACTION)
ENGLISH = [f"Question number {i}: how far is it from the harbour to house {i * 37} on the hill?" for i in range(20)]
THAI = [f"คำถามที่ {i}: จากท่าเรือไปบ้านเลขที่ {i * 37} บนเนินเขาไกลแค่ไหนครับ" for i in range(10)]
HELD_OUT = next(question for question in ENGLISH if LAW.holds_out(question))
LEAK = next(f"{HELD_OUT}{end}" for end in ("!", "??", " ok", "...") if not LAW.holds_out(f"{HELD_OUT}{end}"))


def row(prompt, chosen="It is near.", rejected="Nobody knows that.", **more):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected} | more


@pytest.fixture
def config(tmp_path):
    """Two files. English: 20 questions, one of them twice, one contradicted, one nearly held out, and two rows that cannot be used. Thai:
    10 questions answered in Thai, one of them judged by two raters, and one row of the English file again."""
    english = [row(q) for q in ENGLISH] + [row(ENGLISH[0]), row(ENGLISH[1], "Nobody knows that.", "It is near."), row(LEAK)]
    english += [row("q", chosen=""), row("q", rejected=7)]
    thai = [row(q, "ไม่ไกลครับ", "ไม่มีใครรู้ครับ") for q in THAI[1:]] + [row(ENGLISH[0])]
    thai += [row(THAI[0], "ไม่ไกลครับ", "ไม่มีใครรู้ครับ", rater=rater) for rater in ("สมชาย", "สมหญิง")]
    paths = [tmp_path / "english.jsonl", tmp_path / "thai.jsonl"]
    for path, rows in zip(paths, (english, thai), strict=True):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def make(**curation):
        data = {"source": [str(path) for path in paths], "heldout_fraction": FRACTION}
        return RunConfig.model_validate(
            {"data": data, "labeler": {"kind": "preferences-file", "path": "labels.jsonl"}, "curation": curation}
        )

    return make


def look(config):
    return survey(config, lambda rows: None)


def test_two_files(config):
    found = look(config())
    heldout = sum(LAW.holds_out(q) for q in [*ENGLISH, ENGLISH[0], ENGLISH[1], LEAK])
    entry = found.ledger["english"]
    unusable = {"chosen is empty": 1, "rejected is not text or messages": 1}
    assert (entry["original"], entry["removed"], entry["moved"]) == (25, unusable, {"held out": heldout})
    assert entry["kept"] == 25 - 2 - heldout
    assert found.ledger["thai"]["original"] == 12 and found.ledger["thai"]["removed"] == {}
    assert {reason: count["rows"] for reason, count in found.unusable.items()} == unusable
    assert found.unusable["chosen is empty"]["places"] == [f"{config().data.source[0]}, line 24"]
    assert (found.exact.within, found.exact.across) == ({"english": 1}, {"thai of english": 1})
    assert found.exact.heldout == 0  # equal prompts are on the same side
    assert found.contradictions == {"english": 1} and found.several_raters == 1
    assert found.languages == {"english": {"Latin -> Latin": 23}, "thai": {"Thai -> Thai": 11, "Latin -> Latin": 1}}
    assert found.near_prompts >= 1 and found.near.within["english"] >= 2
    json.dumps(found.as_json())


def test_lengths_are_exact(config):
    """All Thai rejected answers have 15 characters, and all English ones 18 but one, which has 11."""
    lengths = look(config()).lengths
    assert lengths["rejected, Thai"] == [11, *[15] * len(QUANTILES)]
    assert lengths["rejected, Latin"] == [24, 18, 18, 18, 18, 18, 18]
    assert lengths["chosen, Latin"] == [24, 11, 11, 11, 11, 11, 18]
    assert lengths["prompt, Thai"][0] == 11 and lengths["prompt, Thai"][-1] == max(map(len, THAI))


@pytest.mark.parametrize(
    "curation",
    [
        {},
        {"duplicates": "remove", "near_heldout": "remove"},
        {"contradictions": "move", "raters": "majority"},
        {"contradictions": "remove", "near_heldout": "ignore"},
    ],
)
@pytest.mark.parametrize("limit", [None, 12])
def test_a_run_has_the_same_ledger(config, curation, limit):
    config = config(**curation)
    config = config.model_copy(update={"data": config.data.model_copy(update={"max_pairs": limit})})
    found, data = look(config), load_preference_data(config.data, 0, config.curation)
    assert data.ledger.as_json() == found.ledger
    assert data.repeated.get("near_heldout") == found.near_prompts
    counts = [sum(found.exact.within.values()) + sum(found.exact.across.values()), sum(found.contradictions.values())]
    assert [data.repeated["duplicates"], data.repeated["contradictions"]] == counts == [2, 1]
    assert sum(entry["kept"] for entry in found.ledger.values()) == len(data.pairs)
    assert sum(entry["moved"].get("held out", 0) for entry in found.ledger.values()) == len(data.heldout)


def test_a_leaked_prompt_is_not_asked_and_a_moved_one_is(config):
    asked = {p.prompt for p in load_preference_data(config().data, 0, config().curation).prompts}
    removed = load_preference_data(config().data, 0, config(near_heldout="remove").curation)
    assert LEAK in asked and LEAK not in {p.prompt for p in removed.prompts} | {p.prompt for p in removed.pairs}
    moved = load_preference_data(config().data, 0, config(contradictions="move").curation)
    contradicted = ENGLISH[1]
    assert contradicted in {p.prompt for p in [*moved.prompts, *moved.heldout_prompts]}
    assert contradicted not in {p.prompt for p in [*moved.pairs, *moved.heldout]}


def test_the_embedded_world():
    """The default leaves the world's pairs as they are; with `remove`, the survey and a run still agree."""
    for curation in ({}, {"duplicates": "remove", "contradictions": "majority", "near_heldout": "remove"}):
        config = RunConfig.model_validate({"data": {"num_pairs": 300, "heldout_fraction": 0.4}, "curation": curation})
        data = load_preference_data(config.data, 0, config.curation)
        assert data.ledger.as_json() == look(config).ledger
        assert (len(data.pairs) == 300) == (not curation)
        asked = {p.prompt_id for p in data.prompts}
        assert all(p.prompt_id in asked for p in data.pairs)


def test_real_pairs(shared_data):
    """Every row of hh_harmless has one end. What is empty and where the dialogues differ is counted here from the text alone."""
    path = shared_data / "hh_harmless" / "pairs.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        sides = [[json.loads(line)[side].rpartition("\n\nAssistant:") for side in ("chosen", "rejected")] for line in file]
    bad = sum(a[0] != b[0] or not a[2].strip() or not b[2].strip() for a, b in sides)
    heldout = sum(Split(0, 0.22).holds_out(a[0]) for a, b in sides if a[0] == b[0] and a[2].strip() and b[2].strip())
    config = {"data": {"source": str(path)}, "labeler": {"kind": "preferences-file", "path": "labels.jsonl"}}
    (entry,) = look(RunConfig.model_validate(config)).ledger.values()
    assert (entry["original"], sum(entry["removed"].values()), entry["moved"]) == (1629, bad, {"held out": heldout})
    assert entry["kept"] == 1629 - bad - heldout and bad > 0
