"""The stages: each a function from config and input directories to one output directory. Runs on the fleet's workers.

Every worker of the fleet calls the same stage at the same time; what is trained is trained by all, what is sampled is
taken in shards from a queue, and only the main worker writes. A stage returns its metrics; it reads nothing but its
inputs and draws no random number but from `context.seed`. Must never look at other stages, the journal, or Ray.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.schema import RunConfig
from configs.seeds import derive_seed, draw
from loop.store.base_files import RECORD, hash_files
from policies import parallel, ppo, training
from policies.adapters import interpolate
from policies.backbone import Backbone
from policies.base_folder import check_positions
from policies.batching import prompt_batches
from policies.checkpoints import Checkpoints
from policies.generation import generate_sharded
from policies.loading import check_causal_lm, load_tokenizer, resolved_commit
from policies.model_card import write_card
from policies.responses import EncodedPrompt, Response
from policies.sft import train_sft
from policies.tiny_base import train_tiny_base
from policies.tokenization import decode_completion, encode_completion, encode_prompt
from rewards import evaluation, replay
from rewards.comparisons import Comparison, PromptRecord, Sample, group_candidates, read_jsonl, sample_id, write_jsonl
from rewards.data.lengths import TokenLimits
from rewards.data.preference_data import load_preference_data
from rewards.data.sources import hash_sources
from rewards.data.splits import Split
from rewards.evaluation import Measurement
from rewards.labelers import labelers
from rewards.labelers.preferences_file import compare_by_file
from rewards.reward_model import Chooser, beside_shortest, measure_scores, normalize_on_reference, outcomes, train_reward_model
from rewards.scoring import Scorer, ensemble, score_in_shards
from rewards.selectors.listwise import judge_choosers, longest, train_selector
from rewards.world import writer

Metrics = dict[str, Any]
NUM_PRETRAINING_DIALOGUES = 16_000
PAIR_FILES = ("pairs", "heldout_pairs", "labeler_pairs")
PROMPT_FILES = ("prompts", "heldout_prompts")


@dataclass
class Context:
    """What a stage gets. `output` is an empty directory; `inputs` are committed ones (a list where there are several).

    `config` shows the settings that the stage's key covers, and raises UndeclaredSetting for any other (`configs/views.py`).
    """

    stage: str
    round: int | None
    config: RunConfig
    inputs: dict[str, Any]
    output: Path
    checkpoints: Checkpoints
    on_progress: training.OnProgress
    get_backbone: Callable[[Path], Backbone]

    def seed(self, *names: object) -> int:
        return derive_seed(self.config.seed, "setup" if self.round is None else self.round, self.stage, *names)

    @property
    def backbone(self) -> Backbone:
        return self.get_backbone(self.inputs["base"])

    @property
    def limits(self) -> TokenLimits:
        data = self.config.data
        return TokenLimits(self.backbone.tokenizer, data.max_prompt_tokens, data.max_completion_tokens)

    def prompts(self, name: str) -> list[PromptRecord]:
        """`prompts` or `heldout_prompts`; after the `filter` stage, those that are short enough."""
        return read_jsonl(self.inputs["data"] / f"{name}.jsonl", PromptRecord)

    def pairs(self, name: str) -> list[Comparison]:
        """`pairs`, `heldout_pairs` or `labeler_pairs`; after the `filter` stage, those that are short enough."""
        return read_jsonl(self.inputs["data"] / f"{name}.jsonl", Comparison)

    def labels(self) -> list[list[Comparison]]:
        """Comparisons of all rounds so far, by generation; the last entry is this round's."""
        return [read_jsonl(path / "comparisons.jsonl", Comparison) for path in self.inputs["labels"]]


# -- before round 0 -----------------------------------------------------------------------------------------------------


def data(context: Context) -> Metrics:
    """The original pairs, checked and split: what is trained on, what is held out, what only the labeler sees.

    `sources.json` tells which bytes of the user's files they were read from. The files are not needed any more after that.
    """
    files = hash_sources(context.config.data.source)
    loaded = load_preference_data(context.config.data, context.config.seed)
    context.on_progress(1, 1)
    parts = {"pairs": loaded.pairs, "heldout_pairs": loaded.heldout, "labeler_pairs": loaded.labeler_pairs}
    prompts = {"prompts": loaded.prompts, "heldout_prompts": loaded.heldout_prompts}
    if parallel.is_main():
        for name, records in (parts | prompts).items():
            write_jsonl(context.output / f"{name}.jsonl", records)
        if files:
            (context.output / "sources.json").write_text(json.dumps(files, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    sources: dict[str, int] = {}
    for pair in loaded.pairs:
        sources[pair.source] = sources.get(pair.source, 0) + 1
    return {name: len(records) for name, records in (parts | prompts).items()} | {
        "ties": sum(pair.tie for records in parts.values() for pair in records),
        "skipped": dict(loaded.skipped),
        "by_source": sources,
    }


def base(context: Context) -> Metrics:
    """The frozen base. A model of the user's is checked and recorded (`base_files.py`); the embedded one is trained on text."""
    config = context.config.base
    if config.model != "embedded":
        found = check_causal_lm(config.model, config)
        load_tokenizer(config.model, config, found)
        commit = None if Path(config.model).is_dir() else resolved_commit(config)
        if parallel.is_main():
            what = {"files": hash_files(Path(config.model))} if Path(config.model).is_dir() else {"commit": commit}
            record = {"model": config.model, "revision": config.revision, **what}
            (context.output / RECORD).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        context.on_progress(1, 1)
        return {"commit": commit} if commit else {}
    dialogues = []
    if "world" in config.pretraining_texts:
        dialogues += list(writer.pretraining_dialogues(writer.pretraining_prompts(), 0, NUM_PRETRAINING_DIALOGUES))
    if "chosen" in config.pretraining_texts:
        pairs = read_jsonl(context.inputs["data"] / "pairs.jsonl", Comparison)
        dialogues += [(_messages(pair.prompt), pair.chosen) for pair in pairs]
    log = train_tiny_base(dialogues, config, context.output, context.checkpoints, derive_seed("base"), context.on_progress)
    _write_log(context, log)
    return {"loss": training.final_loss(log), "dialogues": len(dialogues)}


def filter(context: Context) -> Metrics:
    """The data again, without the rows that are too long. All later stages take theirs from here, so no other one has to look.

    Rows are left out by what they contain: a prompt stays where only its pairs' completions are too long.
    """
    check_positions(context.backbone.causal_lm.config.to_dict(), context.config.data, context.backbone.name or "the base")
    limits = context.limits
    pairs = {name: limits.keep(context.pairs(name)) for name in PAIR_FILES}
    prompts = {name: limits.keep(context.prompts(name)) for name in PROMPT_FILES}
    parts: dict[str, tuple[list[Any], Counter[str]]] = {**pairs, **prompts}
    for name, (records, left_out) in parts.items():
        if left_out and not records:
            raise limits.nothing_left(name.replace("_", " ").replace("heldout", "held-out"), "the data", left_out)
        if parallel.is_main():
            write_jsonl(context.output / f"{name}.jsonl", records)
    context.on_progress(1, 1)
    left_out_pairs = sum((left_out for _, left_out in pairs.values()), Counter())
    return {name: len(records) for name, (records, _) in parts.items()} | {"left_out": dict(left_out_pairs)}


def sft(context: Context) -> Metrics:
    """Supervised fine-tuning of the first policy on the chosen completions. It is PPO's start and its reference."""
    backbone, all_pairs = context.backbone, context.pairs("pairs")
    pairs = [pair for pair in all_pairs if not pair.tie]  # a tie's completions were chosen by nobody
    if not pairs:
        raise UserError(f"all {len(all_pairs)} training pairs are ties", "the data", "give pairs of which one completion is better")
    tokenizer = backbone.tokenizer
    examples = [(encode_prompt(tokenizer, p.prompt), encode_completion(tokenizer, p.chosen, p.chosen_finished)) for p in pairs]
    backbone.add_adapter("sft", seed=context.seed("adapter"))
    log = train_sft(backbone, "sft", examples, context.config.sft, context.checkpoints, context.seed(), context.on_progress)
    if parallel.is_main():
        backbone.save_adapter("sft", context.output)
        write_card(context.output, backbone, context.stage, context.round)
    _write_log(context, log)
    return {"loss": training.final_loss(log), "pairs": len(pairs)}


def labeler(context: Context) -> Metrics:
    """For `labeler.kind: reward-model`: the model that answers for people, trained on pairs that the run never sees."""
    _with_sft(context)
    scorer = _fit_reward_model(context, "labeler", [pair for pair in context.pairs("labeler_pairs") if not pair.tie])
    scorer.mean, scorer.std = 0.0, 1.0  # its scores stay log-odds, as trained
    if parallel.is_main():
        scorer.save(context.output)
    return dict(beside_shortest(scorer, context.pairs("heldout_pairs")))


def baseline(context: Context) -> Metrics:
    """The SFT policy on the held-out prompts: what every round is compared with."""
    _with_sft(context)
    samples, measured = _measure_policy(context, "sft")
    return _report_policy(context, samples, measured)


# -- a round ------------------------------------------------------------------------------------------------------------


def reward(context: Context) -> Metrics:
    """The reward model of this round: round 0 trains on the original pairs, later rounds take the last retrained one."""
    backbone = _with_sft(context)
    if context.inputs.get("retrained"):
        scorer = Scorer.load(backbone, "reward", context.inputs["retrained"])
        trained_on = 0
    else:
        pairs = [pair for pair in context.pairs("pairs") if not pair.tie]
        scorer = _fit_reward_model(context, "reward", pairs)
        _normalize(context, scorer)
        trained_on = len(pairs)
    if parallel.is_main():
        scorer.save(context.output)
        write_card(context.output, backbone, context.stage, context.round)
    return {
        "pairs": trained_on,
        **beside_shortest(scorer, context.pairs("heldout_pairs")),
        "normalization": {"mean": scorer.mean, "std": scorer.std},
    }


def policy(context: Context) -> Metrics:
    """PPO against the reward model, with the KL to the fixed SFT policy."""
    config, backbone = context.config, _with_sft(context)
    scorers = [Scorer.load(backbone, f"reward-{i}", path) for i, path in enumerate(context.inputs["rewards"])]
    if config.ppo.init == "sft" or not context.inputs.get("last"):
        backbone.add_adapter("policy", copy_of="sft")
    else:
        backbone.add_adapter("policy", folder=context.inputs["last"])
        if config.ppo.init == "interpolate":
            states = backbone.adapter_state("sft"), backbone.adapter_state("policy")
            backbone.set_adapter_state("policy", interpolate(states, config.ppo.interpolate_weight))
    newest = scorers[-1]
    if config.ppo.value_model == "adapter":
        backbone.add_adapter("value", copy_of=newest.adapter)
    value = ppo.ValueModel(backbone, *newest.normalized_head, adapter="value" if config.ppo.value_model == "adapter" else None)
    trainer = ppo.PPOTrainer(backbone, value, ensemble(scorers, config.reward.ensemble), config.ppo, config.generation, context.seed())
    records = context.prompts("prompts")
    prompts = [EncodedPrompt(encode_prompt(backbone.tokenizer, r.prompt), r.prompt, r.prompt_id, r.source) for r in records]
    num_prompts = config.ppo.batch_size // config.ppo.samples_per_prompt
    batches = prompt_batches(len(prompts), num_prompts, config.ppo.num_updates, context.seed("prompts"))
    log = trainer.train([[prompts[i] for i in rows] for rows in batches], context.checkpoints, context.on_progress)
    if parallel.is_main():
        backbone.save_adapter("policy", context.output)
        write_card(context.output, backbone, context.stage, context.round)
        if value.adapter:
            backbone.save_adapter("value", context.output / "value")
    _write_log(context, log)
    memory = trainer.resident_bytes()
    _drop(backbone, "policy", "value", *(s.adapter for s in scorers))
    first, last = evaluation.ends(log)
    return {
        "objective/scores_first_updates": evaluation.over_updates(first, "objective/scores"),
        "objective/scores_last_updates": evaluation.over_updates(last, "objective/scores"),
        "objective/kl_last_updates": evaluation.over_updates(last, "objective/kl"),
        "val/response_length_last_update": log[-1]["val/response_length"],
        "policy/entropy_avg_last_update": log[-1]["policy/entropy_avg"],
        "updates": len(log),
        "memory": memory,
    }


def sample(context: Context) -> Metrics:
    """`num_completions` completions a prompt from this round's policy, and from the last one's where the config asks.

    The prompts come from both sides of the split: comparisons of training prompts are trained on, those of held-out prompts judge.
    """
    config, backbone = context.config, context.backbone
    num_heldout = min(max(1, round(config.sample.num_prompts * config.sample.heldout_fraction)), config.sample.num_prompts - 1)
    heldout = draw(context.prompts("heldout_prompts"), num_heldout, context.seed("heldout"))
    chosen = draw(context.prompts("prompts"), config.sample.num_prompts - num_heldout, context.seed("prompts")) + heldout
    samples = _sample_from(context, "policy", context.inputs["policy"], chosen, context.round, config.sample.num_completions)
    if context.inputs.get("last") and config.sample.earlier_fraction:
        again = draw(chosen, round(len(chosen) * config.sample.earlier_fraction), context.seed("earlier"))
        generation = None if context.round is None else context.round - 1
        samples += _sample_from(context, "last", context.inputs["last"], again, generation, config.sample.num_completions)
    if parallel.is_main():
        write_jsonl(context.output / "samples.jsonl", samples)
    _drop(backbone, "policy", "last")
    return {
        "samples": len(samples),
        "prompts": len(chosen),
        "heldout_prompts": len(heldout),
        "different": len({(s.prompt_id, s.completion) for s in samples}),
        "length": evaluation.summarize([s.num_tokens for s in samples])["mean"],
    }


def label(context: Context) -> Metrics:
    """The labeler turns samples into comparisons. May raise WaitingForLabels."""
    config, path = context.config.labeler, context.inputs["samples"] / "samples.jsonl"
    samples = read_jsonl(path, Sample)
    split = Split(context.config.seed, context.config.data.heldout_fraction)
    left_out: Counter[str] = Counter()  # what became of a file's other rows
    if config.kind == "preferences-file":
        found = compare_by_file(samples, config, split, context.round or 0, path)
        comparisons, too_long = _short_enough(context, found.comparisons)
        left_out = found.left_out + too_long
    else:
        scores = labelers.gold_scores(samples) if config.kind == "gold" else _labeler_scores(context, samples)
        comparisons = labelers.compare_by_scores(samples, scores, config, context.seed(), split)
    if comparisons and all(row.heldout for row in comparisons):
        raise UserError(
            f"all {len(comparisons)} comparisons are of held-out prompts, so there is nothing to train on",
            str(config.path or path),
            "compare samples of more prompts: most of those in the samples' file are for training",
        )
    if parallel.is_main():
        write_jsonl(context.output / "comparisons.jsonl", comparisons)
    heldout = sum(row.heldout for row in comparisons)
    return {
        "comparisons": len(comparisons),
        "heldout": heldout,
        "ties": sum(row.tie for row in comparisons),
        "left_out": dict(left_out),
    }


def retrain(context: Context) -> Metrics:
    """A new reward model on the recorded mixture of original pairs and all generations' comparisons."""
    backbone, labels = _with_sft(context), context.labels()
    original = context.pairs("pairs")
    recorded = replay.mix(original, labels, context.config.retrain, context.seed("mixture"))
    pairs = recorded.rows(original, labels)
    fresh = [row for row in labels[-1] if row.heldout]
    before = Scorer.load(backbone, "before", context.inputs["reward"])
    right_before = outcomes(before.score_answers, fresh)
    scorer = _fit_reward_model(context, "reward", pairs, start=before if context.config.retrain.init == "last" else None)
    _normalize(context, scorer)
    if parallel.is_main():
        scorer.save(context.output)
        write_card(context.output, backbone, context.stage, context.round)
        recorded.write(context.output / "mixture.json")
    _drop(backbone, "before")
    right = outcomes(scorer.score_answers, fresh)
    return {
        "pairs": len(pairs),
        "mixture": replay.composition(pairs),
        "accuracy_fresh_before": right_before.accuracy(),
        "accuracy_fresh": right.accuracy(),
        "accuracy_fresh_gain": (right - right_before).mean(),
        **beside_shortest(scorer, context.pairs("heldout_pairs")),
        "normalization": {"mean": scorer.mean, "std": scorer.std},
    }


def select(context: Context) -> Metrics:
    """The selector, trained on all generations' comparisons and judged on this round's held-out ones."""
    config, backbone = context.config.select, _with_sft(context)
    labels = context.labels()
    groups = group_candidates([row for rows in labels for row in rows if not row.heldout])
    heldout = [row for row in labels[-1] if row.heldout]
    if not groups:
        raise UserError(
            "the select stage has no prompt to train on: no two different completions of a prompt were compared",
            "this run's comparisons",
            "raise sample.num_prompts or sample.num_completions, or look whether the policy gives one answer only (ppo.kl_coefficient)",
        )
    reward_scorer = Scorer.load(backbone, "reward", context.inputs["reward"])
    from_reward = config.init == "reward"
    backbone.add_adapter("selector", copy_of="reward" if from_reward else "sft")
    scorer, log = train_selector(
        backbone,
        "selector",
        groups,
        config,
        context.checkpoints,
        context.seed(),
        context.on_progress,
        head=reward_scorer.head if from_reward else None,
    )
    if parallel.is_main():
        scorer.save(context.output)
    _write_log(context, log)
    choosers: dict[str, Chooser] = {"selector": scorer.score_answers, "reward_model": reward_scorer.score_answers, "longest": longest}
    judged = judge_choosers(choosers, heldout) if heldout else {}
    _drop(backbone, "selector", "reward")
    return {"groups": len(groups), "heldout_comparisons": len(heldout)} | judged


def evaluate(context: Context) -> Metrics:
    """What happened: the policy on held-out prompts, and the reward models on every generation's held-out pairs.

    The SFT policy and the last round's had the same prompts and seeds, so what is compared with them is compared prompt by prompt.
    """
    backbone = _with_sft(context)
    backbone.add_adapter("policy", folder=context.inputs["policy"])
    used = Scorer.load(backbone, "reward", context.inputs["reward"])
    samples, measured = _measure_policy(context, "policy")
    of_sft = read_jsonl(context.inputs["baseline"] / "samples.jsonl", Sample)
    scores, scores_of_sft = measure_scores(used, samples), measure_scores(used, of_sft)
    metrics = _report_policy(context, samples, measured | {"proxy_score": scores})
    metrics["proxy_gain"] = (scores - scores_of_sft).mean()
    for other, folder in (("sft", context.inputs["baseline"]), ("last", context.inputs.get("last"))):
        if folder:
            gains = _by_fact(_gains(measured, folder), samples)
            metrics |= {f"{name}_over_{other}": gain.mean() for name, gain in gains.items()}
    parts = {"original": context.pairs("heldout_pairs")}
    parts |= {f"round-{r:03d}": [row for row in rows if row.heldout] for r, rows in enumerate(context.labels())}
    newest = Scorer.load(backbone, "retrained", context.inputs["retrained"])
    right = {name: (outcomes(used.score_answers, rows), outcomes(newest.score_answers, rows)) for name, rows in parts.items()}
    metrics["reward_accuracy"] = {name: before.accuracy() for name, (before, _) in right.items()}
    metrics["retrained_accuracy"] = {name: after.accuracy() for name, (_, after) in right.items()}
    metrics["retrained_gain"] = {name: (after - before).mean() for name, (before, after) in right.items()}
    _drop(backbone, "policy", "reward", "retrained")
    return metrics


STAGES: dict[str, Callable[[Context], Metrics]] = {
    function.__name__: function
    for function in (data, base, filter, sft, labeler, baseline, reward, policy, sample, label, retrain, select, evaluate)
}


# -- what several stages share --------------------------------------------------------------------------------------------


def _with_sft(context: Context) -> Backbone:
    backbone = context.backbone
    backbone.add_adapter("sft", folder=context.inputs["sft"])
    return backbone


def _fit_reward_model(context: Context, adapter: str, pairs: Sequence[Comparison], start: Scorer | None = None) -> Scorer:
    """A reward model from the SFT adapter, as in arXiv 2009.01325, or from `start`. Raises UserError where there is no pair."""
    if not pairs:
        raise UserError(
            f"the {context.stage} stage has no pair to train a reward model on: there is none, or all are ties or held out",
            "the data and labels",
            "give more pairs of which one completion is better, or change the shares that are held out or kept for the labeler",
        )
    context.backbone.add_adapter(adapter, copy_of=start.adapter if start else "sft")
    head = start.head if start else None
    scorer, log = train_reward_model(
        context.backbone, adapter, pairs, context.config.reward, context.checkpoints, context.seed(), context.on_progress, head
    )
    _write_log(context, log)
    return scorer


def _normalize(context: Context, scorer: Scorer) -> None:
    """The same prompts and seeds in every round."""
    config = context.config
    normalize_on_reference(
        scorer,
        context.prompts("prompts"),
        config.reward.normalization_samples,
        config.generation,
        context.checkpoints,
        derive_seed(config.seed, "normalization"),
    )


def _sample_from(
    context: Context, adapter: str, folder: Path, records: Sequence[PromptRecord], generation: int | None, n: int
) -> list[Sample]:
    """n samples a prompt. The seed of (prompt, k) does not depend on anything else that is sampled."""
    backbone, config = context.backbone, context.config.generation
    backbone.add_adapter(adapter, folder=folder)
    asked = [(record, k) for record in records for k in range(n)]
    responses = _respond(context, adapter, asked, f"generation-{generation}")
    digest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["digest"]
    return [
        Sample(
            id=sample_id(context.round, generation, record.prompt_id, k),
            prompt_id=record.prompt_id,
            prompt=record.prompt,
            completion=decode_completion(backbone.tokenizer, response.token_ids),
            finished=response.finished,
            generation=generation,
            k=k,
            source=record.source,
            unseen_fact=record.unseen_fact,
            policy=digest,
            num_tokens=len(response.token_ids),
            decoding={"temperature": config.temperature, "top_k": config.top_k, "top_p": config.top_p},
        )
        for (record, k), response in zip(asked, responses, strict=True)
    ]


def _respond(context: Context, adapter: str, asked: Sequence[tuple[PromptRecord, int]], purpose: str) -> list[Response]:
    prompts = [encode_prompt(context.backbone.tokenizer, record.prompt) for record, _ in asked]
    seeds = [context.seed(purpose, record.prompt_id, k) for record, k in asked]
    config, checkpoints = context.config.generation, context.checkpoints
    return generate_sharded(
        context.backbone, adapter, prompts, seeds, config, checkpoints, purpose, lambda done: context.on_progress(done, len(asked))
    )


def _measure_policy(context: Context, adapter: str) -> tuple[list[Sample], dict[str, Measurement]]:
    """One sample for each of the drawn held-out prompts, measured. Prompts and seeds are the same in every round, so rounds are paired."""
    config, tokenizer = context.config, context.backbone.tokenizer
    seed = derive_seed(config.seed, "evaluate")
    records = draw(context.prompts("heldout_prompts"), config.evaluate.num_prompts, seed)
    prompts = [encode_prompt(tokenizer, record.prompt) for record in records]
    seeds = [derive_seed(seed, record.prompt_id) for record in records]
    responses = generate_sharded(
        context.backbone,
        adapter,
        prompts,
        seeds,
        config.generation,
        context.checkpoints,
        "responses",
        lambda done: context.on_progress(done, len(prompts)),
    )
    samples = [
        Sample(
            id=record.prompt_id,
            prompt_id=record.prompt_id,
            prompt=record.prompt,
            completion=decode_completion(tokenizer, response.token_ids),
            finished=response.finished,
            generation=context.round,
            k=0,
            source=record.source,
            unseen_fact=record.unseen_fact,
            num_tokens=len(response.token_ids),
        )
        for record, response in zip(records, responses, strict=True)
    ]
    values: dict[str, Sequence[float]] = {"length": [sample.num_tokens for sample in samples]}
    if adapter != "sft":  # the reference has no distance from itself
        values["kl"] = evaluation.kl_to_reference(context.backbone, adapter, "sft", prompts, responses, config.generation)
    if config.data.source == "embedded":
        gold = labelers.gold_scores(samples)
        values["gold"] = [gold[sample.id] for sample in samples]
    units = [sample.prompt_id for sample in samples]
    return samples, {name: Measurement(of_each, units) for name, of_each in values.items()}


def _report_policy(context: Context, samples: Sequence[Sample], measured: dict[str, Measurement]) -> Metrics:
    """Writes samples and measurements, a row a prompt each, and returns the means."""
    if parallel.is_main():
        write_jsonl(context.output / "samples.jsonl", samples)
        rows = zip(*(measurement.values for measurement in measured.values()), strict=True)
        named = [{"prompt_id": s.prompt_id, **dict(zip(measured, row, strict=True))} for s, row in zip(samples, rows, strict=True)]
        write_jsonl(context.output / "measurements.jsonl", named)
    means = {name: measurement.mean() for name, measurement in _by_fact(measured, samples).items()}
    return means | {"defects": evaluation.defect_rates(samples)}


def _by_fact(measured: dict[str, Measurement], samples: Sequence[Sample]) -> dict[str, Measurement]:
    """All measurements, and gold once more for each kind of prompt: those whose fact training asks too, and the others."""
    parts = dict(measured)
    for name, unseen in (("gold_seen_facts", False), ("gold_unseen_facts", True)):
        chosen = [sample.unseen_fact == unseen for sample in samples]
        if "gold" in measured and any(chosen):
            parts[name] = measured["gold"].where(chosen)
    return parts


def _gains(measured: dict[str, Measurement], folder: Path) -> dict[str, Measurement]:
    """What a policy has more than the policy of an earlier stage, of all that was measured there too, prompt by prompt."""
    rows = [json.loads(line) for line in (folder / "measurements.jsonl").open(encoding="utf-8")]
    units = [row["prompt_id"] for row in rows]
    return {
        name: measurement - Measurement([row[name] for row in rows], units)
        for name, measurement in measured.items()
        if all(name in row for row in rows)
    }


def _short_enough(context: Context, comparisons: list[Comparison]) -> tuple[list[Comparison], Counter[str]]:
    """Labels without those whose own texts are too long, and the counts of these. Labels of samples are never too long."""
    if all(row.chosen_id for row in comparisons):
        return comparisons, Counter()
    limits = context.limits
    kept = [row for row in comparisons if row.chosen_id or limits.excess(row) is None]
    left_out = limits.keep([row for row in comparisons if not row.chosen_id])[1]
    if not kept:
        raise limits.nothing_left("comparisons", str(context.config.labeler.path), left_out)
    return kept, left_out


def _labeler_scores(context: Context, samples: Sequence[Sample]) -> labelers.Scores:
    scorer = Scorer.load(context.backbone, "labeler", context.inputs["labeler"])
    scores = score_in_shards(scorer, samples, context.checkpoints, lambda done: context.on_progress(done, len(samples)))
    _drop(context.backbone, "labeler")
    return scores


def _messages(prompt: str | list[dict[str, str]]) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def _drop(backbone: Backbone, *adapters: str) -> None:
    for adapter in adapters:
        backbone.delete_adapter(adapter)


def _write_log(context: Context, rows: Sequence[dict[str, float]]) -> None:
    if parallel.is_main():
        write_jsonl(context.output / "metrics.jsonl", rows)
