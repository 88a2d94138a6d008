"""The stages before round 0."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.schema import BaseConfig
from configs.seeds import derive_seed, draw
from loop.stages.context import Context, Metrics
from loop.stages.ready_models import record_reward_model
from loop.stages.reward_models import PRETRAINED, fit_reward_model, judge_reward_model, trainable
from loop.store.base_files import RECORD, hash_files
from policies.base_folder import check_positions
from policies.conversion import make_available
from policies.loading import check_causal_lm, load_tokenizer, resolved_commit
from policies.sft import train_sft
from policies.tiny_base import train_tiny_base
from policies.tokenization import encode_completion, encode_prompt
from policies.training import final_loss
from rewards.comparisons import Comparison, Demonstration, Prompt, PromptRecord
from rewards.curation.ledger import HELD_OUT, KEEP, LABELER, PROMPTS, Ledger, move, remove
from rewards.data.lengths import LONG_COMPLETION, TokenLimits
from rewards.data.parts import PreferenceData
from rewards.data.preference_data import load_preference_data
from rewards.data.row_files import RowFile
from rewards.data.sources import hash_source
from rewards.data.splits import opening
from rewards.pretraining import as_data, asked_as, control_ids, train_preference_model
from rewards.reward_model import outcomes
from rewards.shown import as_shown
from rewards.world import writer

NUM_PRETRAINING_DIALOGUES = 16_000
MAX_HELDOUT_VOTES = 5_000
"""How many pairs of held-out votes judge the preference model, at most: sites have millions."""
PAIR_FILES = ("pairs", "heldout_pairs", "labeler_pairs")
PROMPT_FILES = ("prompts", "heldout_prompts")
LIKE_HELD_OUT = "opens like a held-out prompt"
LEDGER = "ledger.json"
END_OF_PART = {"pairs": KEEP, "heldout_pairs": move(HELD_OUT), "labeler_pairs": move(LABELER), "answers": KEEP}
"""A file of pairs or answers -> the end of its rows in the ledger."""


def data(context: Context) -> Metrics:
    """Check the original pairs, curate them, and split them into training, held-out, and the labeler's part.

    `ledger.json` says what happened to the rows of each source, and `sources.json` has the account of each: the hash of each file that was
    read, and how many rows were used and left out, and why. Later stages do not need the files any more.
    """
    config = context.config
    loaded = load_preference_data(config.data, config.seed, config.curation, folder=context.scratch)
    context.report(1, 1)
    parts: dict[str, Sequence[Any]] = {
        "pairs": loaded.pairs,
        "heldout_pairs": loaded.heldout,
        "labeler_pairs": loaded.labeler_pairs,
        "prompts": loaded.prompts,
        "heldout_prompts": loaded.heldout_prompts,
        **({"answers": loaded.answers} if loaded.answers else {}),
    }
    for name, records in parts.items():
        context.save_rows(f"{name}.jsonl", records)
    context.save_json(LEDGER, loaded.ledger.as_json())
    if loaded.counts:
        _save_accounts(context, loaded)
    return {name: len(records) for name, records in parts.items()} | {
        "ties": loaded.ties,
        "skipped": dict(loaded.skipped),
        "by_source": dict(loaded.by_source),
        **({"normalized": dict(loaded.changed)} if loaded.changed else {}),
        "ledger": loaded.ledger.as_json(),
        **loaded.repeated,
    }


def base(context: Context) -> Metrics:
    """The frozen base. The user's own model is checked and recorded (`base_files.py`). The embedded one is trained on text."""
    config = context.config.base
    if config.model != "embedded":
        return _record_base(context, config)
    dialogues = list(_pretraining_dialogues(context, config))
    log = train_tiny_base(dialogues, config, context.output, context.checkpoints, derive_seed("base"), context.report)
    context.save_log(log)
    return {"loss": final_loss(log), "dialogues": len(dialogues)}


def filter(context: Context) -> Metrics:
    """The data without the rows that are too long. All later stages read its output, so none of them has to check lengths.

    A row is judged by what it contains: a prompt stays even if the completions of all its pairs are too long. `ledger.json` is that of the
    stage `data`, with these rows moved or removed.
    """
    check_positions(context.backbone.causal_lm.config.to_dict(), context.config.data, context.backbone.name or "the base")
    limits = context.limits
    ledger = Ledger.from_json(json.loads((context.inputs["data"] / LEDGER).read_text(encoding="utf-8")))
    counts: dict[str, int] = {}
    left_out_pairs, left_out_answers = Counter[str](), Counter[str]()
    kinds: dict[str, type[Any]] = dict.fromkeys(PAIR_FILES, Comparison) | dict.fromkeys(PROMPT_FILES, PromptRecord)
    if context.has_answers:
        kinds["answers"] = Demonstration
    for name, kind in kinds.items():
        kept: RowFile[Any] = RowFile(kind, context.scratch)
        left_out = limits.keep_into(kept, context.stored_rows(name, kind), partial(_enter, ledger, name))
        if left_out and not kept:
            raise limits.nothing_left(name.replace("_", " ").replace("heldout", "held-out"), "the data", left_out)
        context.save_rows(f"{name}.jsonl", kept)
        counts[name] = len(kept)
        if name in PAIR_FILES:
            left_out_pairs += left_out
        elif name == "answers":
            left_out_answers = left_out
    ledger.check()
    context.save_json(LEDGER, ledger.as_json())
    context.report(1, 1)
    found: Metrics = counts | {"left_out": dict(left_out_pairs), "ledger": ledger.as_json()}
    return found | ({"answers_left_out": dict(left_out_answers)} if left_out_answers else {})


def sft(context: Context) -> Metrics:
    """Supervised fine-tuning of the first policy on the chosen completions and on single answers. PPO starts from it and measures the KL
    from it."""
    backbone, all_pairs = context.backbone, context.pairs("pairs")
    pairs = [pair for pair in all_pairs if not pair.tie]  # in a tie, nobody has chosen a completion
    if not pairs:
        raise UserError(f"all {len(all_pairs)} training pairs are ties", "the data", "give pairs of which one completion is better")
    tokenizer = backbone.tokenizer
    examples = [(encode_prompt(tokenizer, p.prompt), encode_completion(tokenizer, p.chosen, p.chosen_finished)) for p in pairs]
    answers = context.answers()
    examples += [(encode_prompt(tokenizer, row.prompt), encode_completion(tokenizer, row.answer)) for row in answers]
    backbone.add_adapter("sft", seed=context.seed("adapter"))
    log = train_sft(backbone, "sft", examples, context.config.sft, context.checkpoints, context.seed(), context.report)
    context.save_with_card(lambda folder: backbone.save_adapter("sft", folder))
    context.save_log(log)
    return {"loss": final_loss(log), "pairs": len(pairs)} | ({"answers": len(answers)} if answers else {})


def pmp(context: Context) -> Metrics:
    """Only with `pmp.sources`: a preference model, which learns from public votes and from which the run's reward models start.

    The votes are curated, split and filtered as the run's own data, so nothing is trained on a held-out prompt, and the held-out votes
    judge. With `respond: pivot`, that holds for the translations of held-out prompts too. `accuracy_original` is the accuracy on the run's
    own held-out pairs, before any pair of the run was learned.
    """
    backbone, config = context.backbone_with_sft(), context.config
    loaded = load_preference_data(as_data(config), config.seed, config.curation, folder=context.scratch)
    original, limits, left_out = context.pairs("heldout_pairs"), _limits_of_votes(context), Counter[str]()
    votes = []
    for name, rows in (("votes", loaded.pairs), ("held-out votes", loaded.heldout)):
        kept, too_long = limits.keep(asked_as([pair for pair in rows if not pair.tie], original[0].prompt))
        if not kept:
            raise limits.nothing_left(name, "pmp.sources", too_long)
        votes.append(kept)
        left_out += too_long
    pairs = _without_held_out(context, votes[0], left_out)
    heldout = draw(votes[1], MAX_HELDOUT_VOTES, context.seed("held out"))
    backbone.add_adapter(PRETRAINED, copy_of="sft")
    scorer, log = train_preference_model(backbone, PRETRAINED, pairs, config.pmp, context.checkpoints, context.seed(), context.report)
    context.save_with_card(scorer.save)
    context.save_log(log)
    context.save_json(LEDGER, loaded.ledger.as_json())
    _save_accounts(context, loaded)
    danger, advice = "reward models may gain nothing by starting from it", "give more votes or a larger base, or set reward.init=sft"
    judged = judge_reward_model(context, scorer, pairs, "the preference model", danger, advice, heldout)
    original_right = outcomes(scorer.score_answers, original)
    context.drop_adapters(PRETRAINED)
    return {
        "pairs": len(pairs),
        "heldout_pairs": len(heldout),
        "skipped": dict(loaded.skipped),
        "left_out": dict(left_out),
        "by_source": dict(Counter(pair.source for pair in pairs)),
        "loss": final_loss(log),
        **judged,
        "accuracy_original": original_right.accuracy(),
    }


def labeler(context: Context) -> Metrics:
    """For `labeler.kind: reward-model`: the model that labels in place of people. It is trained on pairs that the run never sees, from the
    SFT policy, or it comes from elsewhere (`labeler.model`) and is only recorded. It judges what people see."""
    if "sft" not in context.inputs:
        return record_reward_model(context)
    context.backbone_with_sft()
    pairs = trainable(context, context.pairs("labeler_pairs"))
    scorer = fit_reward_model(context, "labeler", pairs)
    scorer.mean, scorer.std = 0.0, 1.0  # its scores stay log-odds, as trained
    context.save(scorer.save)
    heldout = [as_shown(pair) for pair in context.pairs("heldout_pairs")]
    return judge_reward_model(context, scorer, pairs, "the labeling model", "its labels may tell no more than that", heldout=heldout)


def baseline(context: Context) -> Metrics:
    """The SFT policy on the held-out prompts. Every round is compared with it."""
    context.backbone_with_sft()
    found = context.evaluate("sft")
    context.save(found.write)
    return found.summary()


def _enter(ledger: Ledger, name: str, row: Comparison | Demonstration | PromptRecord, reason: str) -> None:
    """Enter a pair or an answer that is left out. That with a long completion still has its prompt asked, but for the labeler's."""
    if name in END_OF_PART:
        only_prompt = reason == LONG_COMPLETION and name != "labeler_pairs"
        ledger.change(row.source, END_OF_PART[name], move(PROMPTS) if only_prompt else remove(reason))


def _limits_of_votes(context: Context) -> TokenLimits:
    """The run's limits. Where control words stand before answers, they leave answers less room."""
    limits = context.limits
    words = max(map(len, control_ids(limits.tokenizer))) if context.config.pmp.binarised else 0
    return replace(limits, max_completion_tokens=limits.max_completion_tokens - words)


def _without_held_out(context: Context, votes: Sequence[Comparison], left_out: Counter[str]) -> list[Comparison]:
    """The votes that open like none of the run's held-out prompts, as the policy reads them. The split of the votes takes out what users
    wrote, and not its translation. Raises UserError if no vote is left."""
    heldout = {opening(pair.prompt) for pair in context.pairs("heldout_pairs")}
    heldout |= {opening(record.prompt) for record in context.prompts("heldout_prompts")}
    kept = [pair for pair in votes if opening(pair.prompt) not in heldout]
    if not kept:
        raise UserError(f"all {len(votes)} votes open like held-out prompts of the run", "pmp.sources", "give votes of other questions")
    if len(kept) < len(votes):
        left_out[LIKE_HELD_OUT] += len(votes) - len(kept)
    return kept


def _save_accounts(context: Context, loaded: PreferenceData) -> None:
    """Write the account of each source, with the hashes of its files."""
    accounts = [counts.as_json() | {"files": hash_source(counts.source)} for counts in loaded.counts]
    context.save_json("sources.json", accounts)


def _record_base(context: Context, config: BaseConfig) -> Metrics:
    """Check a model that the run does not make itself, and write which files or which commit it is."""
    source = make_available(config.model)
    found = check_causal_lm(source, config)
    load_tokenizer(source, config, found)
    folder = Path(source)
    what: dict[str, Any] = {"files": hash_files(folder)} if folder.is_dir() else {"commit": resolved_commit(config.model, config.revision)}
    record = {"model": config.model, "revision": config.revision, **what}
    context.save_json(RECORD, record)
    context.report(1, 1)
    return {"commit": what["commit"]} if what.get("commit") else {}


def _pretraining_dialogues(context: Context, config: BaseConfig) -> Iterator[tuple[list[dict[str, str]], str]]:
    """What the tiny base reads: messages and an answer each."""
    if "world" in config.pretraining_texts:
        yield from writer.pretraining_dialogues(writer.pretraining_prompts(), 0, NUM_PRETRAINING_DIALOGUES)
    if "mostly-english" in config.pretraining_texts:
        yield from writer.pretraining_dialogues(writer.mostly_english(writer.pretraining_prompts()), 0, NUM_PRETRAINING_DIALOGUES)
    if "chosen" in config.pretraining_texts:
        yield from ((_as_messages(pair.prompt), pair.chosen) for pair in context.pairs("pairs"))


def _as_messages(prompt: Prompt) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
