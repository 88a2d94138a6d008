"""`samples`: print the answers of a run's policies, with what was said of them."""

import argparse
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from configs.errors import UserError
from loop.commands.arguments import add_run, find_run, number_from, runs_folder
from loop.printing import say
from loop.report.answers import Shown, held_out_answers, labeled_answers
from loop.report.reading import RunView, read_run
from rewards.rules import RULES

HELP = "print answers of a run's policies, with their scores, the rules that fire and how often they were chosen"
SHOWN, SHOWN_CHARACTERS = 20, 1500


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `samples`."""
    add_run(parser)
    parser.add_argument("--round", metavar="R", help="the round whose policy answered, or `sft` (default: the last one that has answers)")
    parser.add_argument("--prompt", metavar="TEXT", help="only prompts that contain this text, or have this id")
    parser.add_argument("--defect", metavar="RULE", help="only answers on which this rule fires")
    parser.add_argument("--sort", metavar="SCORE", help="the highest first: score, gold, kl, length or another score")
    parser.add_argument("--ascending", action="store_true", help="with --sort: the lowest first")
    parser.add_argument("--limit", type=number_from(1), default=SHOWN, metavar="N", help=f"how many answers are shown (default: {SHOWN})")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line, with the whole texts")


def run(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    view = read_run(find_run(runs_folder(options), options.run))
    if options.defect and options.defect not in RULES:
        raise UserError(f"there is no rule {options.defect!r}", "--defect", f"use one of: {', '.join(RULES)}")
    rules = [options.defect] if options.defect else []  # it need not be one of those that the run asks
    found = [answer for answer in _answers(view, _round(view, options.round), rules) if _fits(answer, options)]
    if options.sort:
        found = _sorted(found, options.sort, options.ascending)
    for answer in found[: options.limit]:
        say(json.dumps(asdict(answer), ensure_ascii=False) if options.json else block(answer))
    if not options.json:
        say(f"{min(len(found), options.limit)} of {len(found)} answers")
    return 0


def block(answer: Shown) -> str:
    """An answer as some lines of text. Below a translation stands what the policy read (q) and wrote (a)."""
    labels = [f"{word} {count}x" for word, count in (("chosen", answer.won), ("rejected", answer.lost), ("tie", answer.tied)) if count]
    scores = [f"{name} {value:.2f}" for name, value in answer.scores.items()]
    rules = [f"rule {name}" for name in answer.defects] + ([] if answer.finished else ["not ended"])
    head = " · ".join(filter(None, ["SFT" if answer.round is None else f"round {answer.round}", answer.source, answer.prompt_id[:16]]))
    said = "; ".join([*labels, *rules, *scores])
    own = [*_indented(answer.asked, "q "), *_indented(answer.written or "(empty)", "a ")] if answer.asked else []
    return "\n".join([f"{head}  [{said}]", *_indented(answer.prompt, "Q "), *_indented(answer.text or "(empty)", "A "), *own, ""])


def _indented(text: str, mark: str) -> Iterator[str]:
    """The lines of a text, with a mark before the first. A long text is cut."""
    rest = len(text) - SHOWN_CHARACTERS
    shown = text if rest <= 0 else f"{text[:SHOWN_CHARACTERS]} … ({rest:,} more characters)"
    for number, line in enumerate(shown.split("\n")):
        yield f"  {mark if not number else '  '}{line}"


def _answers(view: RunView, r: int | None, rules: Sequence[str]) -> Iterator[Shown]:
    """All answers of a round's policy: those to held-out prompts first, then those that labels were asked for. rules: those that are asked
    besides those of the run."""
    return itertools.chain(held_out_answers(view, r, also=rules), [] if r is None else labeled_answers(view, r, also=rules))


def _round(view: RunView, word: str | None) -> int | None:
    """The round that is asked for. Raises UserError for one that the run does not have."""
    with_answers = [r for r in view.rounds if view.metrics("sample", r) or view.metrics("evaluate", r)]
    if word is None:
        return with_answers[-1] if with_answers else None
    if word.lower() == "sft":
        return None
    if not word.isdecimal() or int(word) not in with_answers:
        there = ", ".join(["sft", *map(str, with_answers)])
        raise UserError(f"the run {view.name!r} has no answers of a round {word!r}", "--round", f"use one of: {there}")
    return int(word)


def _fits(answer: Shown, options: argparse.Namespace) -> bool:
    """Whether an answer is one of those that are asked for."""
    asked = (options.prompt or "").lower()
    is_asked = not asked or asked in answer.prompt.lower() or answer.prompt_id.startswith(asked)
    return is_asked and (not options.defect or options.defect in answer.defects)


def _sorted(found: list[Shown], name: str, is_ascending: bool) -> list[Shown]:
    """The answers that have a score, in its order. `score` is the selector's, else the reward model's. Raises UserError if none has it."""
    names = ["selector", "reward model"] if name == "score" else [name]

    def value(answer: Shown) -> float | None:
        return next((answer.scores[known] for known in names if known in answer.scores), None)

    keyed = [(score, answer) for answer in found if (score := value(answer)) is not None]
    if found and not keyed:
        there = sorted({known for answer in found for known in answer.scores})
        raise UserError(f"no answer here has a score {name!r}", "--sort", f"use one of: score, {', '.join(there)}")
    return [answer for _, answer in sorted(keyed, key=lambda pair: pair[0], reverse=not is_ascending)]
