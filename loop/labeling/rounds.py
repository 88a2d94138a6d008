"""What people are asked about: the round of a run that waits for labels, its pairs, and where their labels go.

    preferences-file    every pair of different answers to one prompt, in an order that comes to all prompts first, and the pairs in
                        `wanted.jsonl` that compare policies for win rates
    mixture             the pairs in `wanted.jsonl`, which the label stage has written for people

Reads a run and never writes into it. Must never import torch or Ray.
"""

import fnmatch
import glob
import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from configs.errors import UserError
from configs.schema import LabelerConfig, RunConfig
from configs.seeds import derive_seed
from loop.labeling.answers import PairIds, is_label
from loop.round import ANSWER, LABEL, SAMPLE
from loop.store.artifacts import find_damage
from loop.store.journal import RunState, fold, read_events
from loop.store.layout import RunFolder
from loop.store.run_config import read_config
from loop.store.seen import seen_state
from rewards.comparisons import WIN_RATE, Prompt, Sample, all_pairs, read_jsonl
from rewards.data.splits import content_id
from rewards.labelers.label_files import WANTED, find_files, find_path, read_labels
from rewards.shown import as_shown

LABELED_BY_PEOPLE = "preferences-file"


@dataclass(frozen=True)
class Answer:
    """One side of a pair. finished: whether the policy ended the text itself. written: what the policy wrote, where people see a
    translation of it."""

    id: str
    text: str
    finished: bool
    written: str = ""


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt. name: what the page calls the pair; it says nothing about who wrote the answers.

    tier: the pairs of a prompt are numbered from 0, and those for win rates have a tier of their own. All pairs of a tier are asked before
    those of the next. asked: what the policy was asked instead of the prompt, where it answers in another language.
    """

    name: str
    prompt_id: str
    prompt: Prompt
    answers: tuple[Answer, Answer]
    tier: int
    asked: Prompt | None = None

    @property
    def ids(self) -> PairIds:
        return frozenset(answer.id for answer in self.answers)


@dataclass(frozen=True)
class LabelingRound:
    """A round of a run, as the page has to know it. min_labels: how many labeled pairs are enough; None means all.

    is_mixture: only the pairs on offer count then. If people alone label, other pairs count too, and at least one must be of samples.
    has_own_file: whether the path of the labels names the round. is_normalized: whether the run's own texts were normalized. meant: which
    answers of samples the run takes a row by texts for: (prompt's id, text) -> whether it is a finished one.
    """

    run: str
    number: int
    seed: int
    pairs: list[Pair]
    min_labels: int | None
    is_mixture: bool
    label_file: Path
    other_files: list[Path]
    has_own_file: bool
    is_normalized: bool
    meant: dict[tuple[str, str], bool]

    def rows_elsewhere(self) -> Iterator[dict[str, object]]:
        """Labels by ids in the other files that `labeler.path` names. What cannot be read is left to the run, which will say so."""
        for file in self.other_files:
            for _, row in read_labels(file):
                if isinstance(row, dict) and is_label(row):
                    yield row


def waiting_round(folder: RunFolder) -> LabelingRound | None:
    """The round whose samples are there and whose labels are not. None if there is none. Raises UserError if nobody has to label."""
    state = fold(read_events(folder.journal))
    _check_asks_people(folder, state)
    ready = [n for n in state.rounds if state.stage(SAMPLE.name, n).state == "done" and state.stage(LABEL.name, n).state != "done"]
    return read_round(folder, max(ready)) if ready else None


def read_round(folder: RunFolder, number: int) -> LabelingRound:
    """A round of a run. Raises UserError if it has no samples, or if they are damaged."""
    state = fold(read_events(folder.journal))
    config = _check_asks_people(folder, state)
    committed, place = state.stage(SAMPLE.name, number).committed, folder.stage(SAMPLE.name, number)
    if committed is None:
        raise UserError(f"round {number} has no samples yet", str(folder.path), f"`loop resume {folder.name}` makes them")
    if damage := find_damage(place, committed.manifest):
        raise UserError(f"the samples are damaged: {damage[0]}", str(place), f"delete that directory, and `loop resume {folder.name}`")
    samples = read_jsonl(place / "samples.jsonl", Sample)
    seed = derive_seed(config.seed, "labeling", number)
    wanted, least = folder.work(LABEL.name, number).checkpoints / WANTED, config.labeler.min_labels
    answers = _policies_answers(folder, state, number)
    pairs = _wanted_pairs(wanted, [*samples, *answers], win_tier=0 if least is None else -1)
    is_mixture = config.labeler.kind != LABELED_BY_PEOPLE
    if not is_mixture:
        pairs += _pairs_of([as_shown(sample) for sample in samples], seed)
    pairs = _with_originals(pairs, [*samples, *answers])
    label_file, others = _label_files(config.labeler, number)
    has_own_file = "{round}" in str(config.labeler.path)
    is_normalized = config.data.normalize and config.data.source != "embedded"
    shown = sorted(map(as_shown, samples), key=lambda sample: sample.finished)  # of two with one text, the finished one is meant
    meant = {(content_id(sample.prompt), sample.completion): sample.finished for sample in shown}
    return LabelingRound(folder.name, number, seed, pairs, least, is_mixture, label_file, others, has_own_file, is_normalized, meant)


def state_of(folder: RunFolder) -> str:
    """The state of a run, as `loop status` says it."""
    return seen_state(folder, read_events(folder.journal)).state


def _check_asks_people(folder: RunFolder, state: RunState) -> RunConfig:
    config = read_config(folder.path, state)
    if LABELED_BY_PEOPLE not in config.labeler.kinds:
        to_do = "start a run with labeler.kind=preferences-file labeler.path='labels/round-{round}.jsonl'"
        raise UserError(f"nobody has to label: the labels of this run come from {config.labeler.kind}", str(folder.config), to_do)
    return config


def _pairs_of(samples: list[Sample], seed: int) -> list[Pair]:
    """All pairs, those of each prompt in a random order. The policy may write a text twice: of pairs with the same texts, one is asked."""
    found = []
    for prompt_id, pairs in all_pairs(samples).items():
        shuffled = random.Random(derive_seed(seed, "tiers", prompt_id)).sample(pairs, len(pairs))
        by_texts: dict[frozenset[tuple[str, bool]], tuple[Sample, Sample]] = {}
        for pair in shuffled:
            by_texts.setdefault(frozenset((sample.completion, sample.finished) for sample in pair), pair)
        found += [_pair(prompt_id, a.prompt, _answer(a), _answer(b), tier) for tier, (a, b) in enumerate(by_texts.values())]
    return found


def _policies_answers(folder: RunFolder, state: RunState, number: int) -> list[Sample]:
    """What is compared for win rates, where the run measures them."""
    if state.stage(ANSWER.name, number).committed is None:
        return []
    return read_jsonl(folder.stage(ANSWER.name, number) / "samples.jsonl", Sample)


def _wanted_pairs(path: Path, samples: list[Sample], win_tier: int) -> list[Pair]:
    """The pairs that the label stage asks about, in the order of its file. They need not be of this round's samples. Of pairs of samples
    with the same texts, the first is asked.

    win_tier: the tier of the pairs for win rates.
    """
    if not path.exists():
        return []
    known = {sample.id: _answer(sample) for sample in samples}
    tiers = Counter[str]()
    said = set[tuple[str, frozenset[tuple[str, bool]]]]()
    found = []
    with path.open(encoding="utf-8") as file:
        for row in map(json.loads, file):
            first, second = (known.get(id) or Answer(id, text, True) for id, text in zip(row["ids"], row["completions"], strict=True))
            prompt_id = content_id(row["prompt"])
            texts = prompt_id, frozenset((answer.text, answer.finished) for answer in (first, second))
            is_win = row.get("job") == WIN_RATE
            if is_win or texts not in said:
                found.append(_pair(prompt_id, row["prompt"], first, second, win_tier if is_win else tiers[prompt_id]))
            if not is_win:
                tiers[prompt_id] += texts not in said
                said.add(texts)
    return found


def _pair(prompt_id: str, prompt: Prompt, first: Answer, second: Answer, tier: int) -> Pair:
    name = f"{derive_seed('pair', *sorted((first.id, second.id))):016x}"
    return Pair(name, prompt_id, prompt, (first, second), tier)


def _answer(sample: Sample) -> Answer:
    shown = as_shown(sample)
    return Answer(shown.id, shown.completion, shown.finished)


def _with_originals(pairs: list[Pair], samples: list[Sample]) -> list[Pair]:
    """The pairs, with what the policy read and wrote where people see translations."""
    pivoted = {sample.id: sample for sample in samples if sample.pivot}

    def with_original(pair: Pair) -> Pair:
        of_pair = [pivoted[answer.id] for answer in pair.answers if answer.id in pivoted]
        if not of_pair:
            return pair
        first, second = (replace(answer, written=pivoted[answer.id].completion if answer.id in pivoted else "") for answer in pair.answers)
        return replace(pair, answers=(first, second), asked=of_pair[0].prompt)

    return [with_original(pair) for pair in pairs]


def _label_files(config: LabelerConfig, number: int) -> tuple[Path, list[Path]]:
    """The file that the page writes, and the others that the run reads too. Raises UserError if no line can be appended to the first."""
    given = find_path(config, number)
    own = given
    if glob.has_magic(str(given)) and not given.exists():
        own = given.with_name(f"loop-label-round-{number:03d}.jsonl")
        if glob.has_magic(str(given.parent)) or not fnmatch.fnmatch(own.name, given.name):
            to_do = "give the page a pattern that its own file fits, such as labels/*.jsonl, or label elsewhere and use --import"
            raise UserError(f"the page writes {own.name}, which does not fit labeler.path", str(given), to_do)
    if own.suffix != ".jsonl":
        raise UserError("the page can only write a .jsonl file", str(own), "start the run with another labeler.path")
    return own, [file for file in find_files(given) if file != own] if own != given else []
