"""Original preference pairs from the hub, from files or from the embedded world, checked row by row.

Reads TRL's preference formats (explicit or implicit prompt, plain or conversational) and HH dialogue text. Every row that
is left out is counted by reason. A pair's prompt decides on which side of the held-out split it is: dialogues that open
alike stay together. Must never train anything.
"""

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.schema import DataConfig
from configs.seeds import derive_seed, draw
from rewards.comparisons import Comparison, Prompt, PromptRecord
from rewards.data.csv_rows import read_csv
from rewards.data.json_lines import read_json, read_json_lines
from rewards.data.sources import FILE_KINDS, check_sources, file_kind, is_file_source
from rewards.data.splits import Side, Split, content_id
from rewards.labelers.labelers import bernoulli
from rewards.world import writer
from rewards.world.gold import gold_reward

ROLES = ("system", "user", "assistant", "tool")
"""What chat templates know. Another role would be a guess at who speaks."""
READERS = {"jsonl": read_json_lines, "json": read_json, "csv": read_csv}
"""Kinds of file that are read here: `datasets` would guess types, and turn the answers NA and 007 into nothing and 7."""
UNSEEN_FACT_FRACTION = 0.1
"""Share of the embedded world's facts that no run trains on."""
_HH_TURN = re.compile(r"\n\n(Human|Assistant):")


@dataclass
class PreferenceData:
    """What a run starts from. Nothing in `heldout` or `heldout_prompts` shares an opening with the rest."""

    pairs: list[Comparison]
    heldout: list[Comparison]
    prompts: list[PromptRecord]
    heldout_prompts: list[PromptRecord]
    labeler_pairs: list[Comparison] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


NAMES: dict[Side, str] = {"training": "training", "heldout": "held-out data", "labeler": "the labeler"}


class BadRow(Exception):
    """A row that cannot be used; the text is the reason that is counted."""


def load_preference_data(config: DataConfig, seed: int) -> PreferenceData:
    """Raises UserError for files that are missing or unreadable, missing columns, or no usable row."""
    if config.source == "embedded":
        return _embedded(config, seed)
    rows, where = _load_rows(config)
    skipped: Counter[str] = Counter()
    pairs = []
    for place, row in rows:
        try:
            pairs.append(parse_row(row))
        except BadRow as error:
            if config.bad_rows == "refuse":
                raise UserError(f"a row cannot be used: {error}", place, "correct it, or set data.bad_rows=skip") from None
            skipped[str(error)] += 1
    if not pairs:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in skipped.items()) or "the data set is empty"
        raise UserError(f"no usable preference pair: {reasons}", where, "give data with prompt, chosen and rejected")
    if config.max_pairs:
        pairs = draw(pairs, config.max_pairs, derive_seed(seed, "max_pairs"))
    return _split(pairs, config, seed, skipped, where)


def parse_row(row: dict[str, Any]) -> Comparison:
    """One row of TRL's preference formats as a Comparison. Raises BadRow.

    `tie: true`, or equal `score_chosen` and `score_rejected` where `tie` says nothing, mean that neither is better.
    """
    chosen, rejected = row.get("chosen"), row.get("rejected")
    for name, value in (("chosen", chosen), ("rejected", rejected)):
        if not isinstance(value, str | list):
            raise BadRow(f"{name} is not text or messages")
    prompt: Prompt
    if isinstance(chosen, list) or isinstance(rejected, list):
        prompt, texts = _split_dialogues(*(_with_prompt(row.get("prompt"), answer) for answer in (chosen, rejected)))
    elif row.get("prompt") is not None:
        given = row["prompt"]
        prompt, texts = given if isinstance(given, str) else _messages(given, "prompt"), (chosen, rejected)  # type: ignore[assignment]
    else:
        prompt, texts = _implicit_text(chosen, rejected)  # type: ignore[arg-type]
    if not (prompt if isinstance(prompt, str) else "".join(m["content"] for m in prompt)).strip():
        raise BadRow("the prompt is empty")
    for name, text in zip(("chosen", "rejected"), texts, strict=True):
        if not text.strip():
            raise BadRow(f"{name} is empty")
    if texts[0] == texts[1]:
        raise BadRow("chosen and rejected are the same")
    return Comparison(content_id(prompt), prompt, *texts, source=str(row.get("source") or "original"), tie=_is_tie(row))


def parse_dialogue(text: str) -> list[dict[str, str]]:
    """HH's "\\n\\nHuman: ...\\n\\nAssistant: ..." as messages. Raises BadRow for text before the first turn."""
    before, *parts = _HH_TURN.split("\n\n" + text.lstrip())
    if before.strip():
        raise BadRow("there is text before the first turn of a dialogue")
    roles = {"Human": "user", "Assistant": "assistant"}
    return [{"role": roles[name], "content": said.strip()} for name, said in zip(parts[::2], parts[1::2], strict=True)]


def _is_tie(row: dict[str, Any]) -> bool:
    tie, scores = row.get("tie"), [row.get("score_chosen"), row.get("score_rejected")]
    if tie is not None and not isinstance(tie, bool):
        raise BadRow("tie is not true or false")
    if any(score is not None and (isinstance(score, bool) or not isinstance(score, int | float)) for score in scores):
        raise BadRow("score_chosen or score_rejected is not a number")
    return tie if tie is not None else scores[0] is not None and scores[0] == scores[1]


def _with_prompt(prompt: Any, answer: Any) -> list[dict[str, str]]:
    """The whole dialogue of one side, whose answer or prompt is messages. Some data repeat the prompt in each answer."""
    if isinstance(prompt, str):
        turns = [{"role": "user", "content": prompt}] if prompt.strip() else []
    else:
        turns = [] if prompt is None else _messages(prompt, "prompt")
    said = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else _messages(answer, "chosen or rejected")
    return said if said[: len(turns)] == turns else turns + said


def _split_dialogues(first: list[dict[str, str]], second: list[dict[str, str]]) -> tuple[Prompt, tuple[str, str]]:
    """What two dialogues share is the prompt, and the one message after it is the answer."""
    if not first or not second or first[-1]["role"] != "assistant" or second[-1]["role"] != "assistant":
        raise BadRow("a dialogue does not end with the assistant")
    if first[:-1] != second[:-1]:
        raise BadRow("the dialogues differ before the last answer")
    return first[:-1], (first[-1]["content"], second[-1]["content"])


def _implicit_text(chosen: str, rejected: str) -> tuple[Prompt, tuple[str, str]]:
    if _HH_TURN.search(chosen) and _HH_TURN.search(rejected):
        return _split_dialogues(parse_dialogue(chosen), parse_dialogue(rejected))
    length = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), min(len(chosen), len(rejected)))
    length = chosen.rfind(" ", 0, length) + 1 or length
    return chosen[:length], (chosen[length:], rejected[length:])


def _messages(value: Any, name: str) -> list[dict[str, str]]:
    if not isinstance(value, list):
        raise BadRow(f"{name} is not text or messages")
    for message in value:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str) or "role" not in message:
            raise BadRow("a message lacks role or text content")
        if message["role"] not in ROLES:
            raise BadRow(f"a message's role is none of {', '.join(ROLES)}")
        if message.get("tool_calls"):
            raise BadRow("a message calls tools")
    return [{"role": m["role"], "content": m["content"]} for m in value]


Rows = list[tuple[str, dict[str, Any]]]
"""Each row with where it stands, in words."""


def _load_rows(config: DataConfig) -> tuple[Rows, str]:
    """All rows, and where they came from in words."""
    sources = config.source if isinstance(config.source, list) else [config.source]
    if not any(map(is_file_source, sources)):
        return _load_hub(sources, config.split)
    check_sources(sources, "data.source")
    return [row for source in sources for row in _load_file(Path(source))], ", ".join(sources)


def _load_file(path: Path) -> Rows:
    kind = str(file_kind(path.name))
    try:
        if kind in READERS:
            rows = [(f"{path}, {place}", row) for place, row in READERS[kind](path)]
        else:
            from datasets import load_dataset

            rows = _numbered(load_dataset(FILE_KINDS[kind], data_files=str(path), split="train"), str(path))
    except UserError:
        raise
    except Exception as error:  # datasets wraps the parsers' many error types in its own
        raise UserError(f"the data file cannot be read: {_cause(error)}", str(path), "check that it is what its ending says") from None
    _check_columns(rows, str(path))
    return rows


def _numbered(table: Any, where: str) -> Rows:
    return [(f"{where}, row {number}", row) for number, row in enumerate(table.to_list(), 1)]


def _load_hub(sources: list[str], split: str) -> tuple[Rows, str]:
    from datasets import load_dataset

    rows: Rows = []
    for source in sources:
        try:
            loaded = _numbered(load_dataset(source, split=split), f"{source} ({split})")
        except ConnectionError:
            to_do = "connect to the network, set HF_ENDPOINT to a mirror, or download the pairs elsewhere and give them as a file"
            raise UserError(
                "the hub cannot be reached, and this data set was never downloaded here", f"data.source={source}", to_do
            ) from None
        except Exception as error:  # the hub's client raises from four libraries
            raise UserError(
                f"the data set cannot be loaded: {_cause(error)}", f"{source} ({split})", "check data.source and data.split"
            ) from None
        _check_columns(loaded, source)
        rows += loaded
    return rows, ", ".join(sources)


def _check_columns(rows: Rows, where: str) -> None:
    if not rows:
        raise UserError("the data set is empty", where, "give data with prompt, chosen and rejected")
    columns = {name for _, row in rows for name in row}
    if missing := {"chosen", "rejected"} - columns:
        raise UserError(
            f"the data lacks the column{'s' * (len(missing) > 1)} {', '.join(sorted(missing))} (it has {', '.join(sorted(columns))})",
            where,
            "rename your columns to TRL's preference format: prompt, chosen, rejected",
        )


def _cause(error: Exception) -> str:
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _split(pairs: list[Comparison], config: DataConfig, seed: int, skipped: Counter[str], where: str) -> PreferenceData:
    """Three parts by opening: training, held-out, and what only the labeler may see."""
    split = Split(seed, config.heldout_fraction, config.labeler_fraction)
    parts: dict[Side, list[Comparison]] = {"training": [], "heldout": [], "labeler": []}
    for pair in pairs:
        side = split.side(pair.prompt)
        parts[side].append(replace(pair, heldout=side == "heldout"))
    _check_parts(parts, config, where)
    training, heldout = parts["training"], parts["heldout"]
    return PreferenceData(training, heldout, _prompts_of(training), _prompts_of(heldout), parts["labeler"], skipped)


def _check_parts(parts: Mapping[Side, Sequence[Any]], config: DataConfig, where: str) -> None:
    """Raises UserError for a part that has no pair or prompt, or only ties."""
    settings: dict[Side, str] = {"training": "data.heldout_fraction", "heldout": "data.heldout_fraction"}
    if config.labeler_fraction:
        settings["labeler"] = "data.labeler_fraction"
    for side, setting in settings.items():
        if all(getattr(row, "tie", False) for row in parts[side]):
            what = "none is left" if not parts[side] else "all that are left are ties"
            raise UserError(f"too few pairs: {what} for {NAMES[side]}", where, f"give more data or change {setting}")


def _prompts_of(pairs: list[Comparison]) -> list[PromptRecord]:
    """Each prompt once, in order of first appearance."""
    first: dict[str, PromptRecord] = {}
    for pair in pairs:
        first.setdefault(pair.prompt_id, PromptRecord(pair.prompt_id, pair.prompt, pair.source))
    return list(first.values())


def _embedded(config: DataConfig, seed: int) -> PreferenceData:
    """Pairs of the world's writer on the prompts that its users ask, labelled by the gold reward.

    Most held-out prompts ask, in other words, what training prompts ask too, so they test phrasing. Some facts, drawn by the run's
    seed, are therefore left out of the training and labeler parts altogether, also where a follow-up's earlier turns tell them; held-out
    prompts about them are marked. The base may have read about these facts: that is what pretraining is for.
    """
    facts = sorted({prompt.fact for prompt in writer.user_prompts()})
    unseen = draw(facts, round(len(facts) * UNSEEN_FACT_FRACTION), derive_seed(seed, "unseen facts"))
    split = Split(seed, config.heldout_fraction, config.labeler_fraction)
    prompts: dict[Side, list[writer.Prompt]] = {"training": [], "heldout": [], "labeler": []}
    for prompt in writer.user_prompts():
        side = split.side(prompt.as_messages())
        if side == "heldout" or not {prompt.fact, prompt.told_fact} & set(unseen):
            prompts[side].append(prompt)
    _check_parts(prompts, config, "the embedded world")
    counts: dict[Side, int] = {
        "training": config.num_pairs,
        "heldout": max(1, round(config.num_pairs * config.heldout_fraction)),
        "labeler": round(config.num_pairs * config.labeler_fraction),
    }
    pairs = {
        side: _write_pairs(prompts[side], count, derive_seed(seed, "pairs", side), side == "heldout") for side, count in counts.items()
    }
    records = {side: [PromptRecord(p.id, p.as_messages(), p.source, p.fact in unseen) for p in found] for side, found in prompts.items()}
    return PreferenceData(pairs["training"], pairs["heldout"], records["training"], records["heldout"], pairs["labeler"])


def _write_pairs(prompts: list[writer.Prompt], count: int, seed: int, heldout: bool = False) -> list[Comparison]:
    rng, pairs = random.Random(seed), []
    while len(pairs) < count:
        prompt = rng.choice(prompts)
        a, b = writer.write_answer(prompt, rng), writer.write_answer(prompt, rng)
        if a == b:
            continue
        difference = gold_reward(prompt, a.text, a.finished) - gold_reward(prompt, b.text, b.finished)
        if not bernoulli(difference, rng):
            a, b = b, a
        pairs.append(
            Comparison(
                prompt.id,
                prompt.as_messages(),
                a.text,
                b.text,
                source=prompt.source,
                chosen_finished=a.finished,
                rejected_finished=b.finished,
                labeler="gold",
                heldout=heldout,
            )
        )
    return pairs
