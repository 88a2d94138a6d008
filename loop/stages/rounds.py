"""The stages of a round."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs.errors import UserError
from configs.seeds import draw
from loop.stages.context import Context, Metrics
from loop.stages.guarding import guard_metrics, make_guard, rows_of
from loop.stages.reward_models import fit_reward_model, judge_reward_model, normalize, start_of, trainable
from loop.stages.selecting import PPO_SCORE, examples_so_far, made_before, save_selector, score_function, tools_with, used_selector
from loop.stages.winning import judge_policy, win_metrics
from policies import ppo
from policies.adapters import interpolate
from policies.batching import prompt_batches
from policies.dpo import train_dpo
from policies.responses import EncodedPrompt
from policies.tokenization import encode_completion, encode_prompt
from policies.training import final, final_loss
from rewards import keeping, replay, selectors
from rewards.baselines import SHORTER, judge_beside, shortest
from rewards.best_of import choose_best_of
from rewards.comparisons import PromptRecord, Sample, group_candidates, read_jsonl
from rewards.curation.applying import repeated_in
from rewards.data.splits import Split
from rewards.labelers import committee as committees
from rewards.measurements import ends, over_updates, summarize
from rewards.probes import probe
from rewards.reward_model import measure_scores, outcomes
from rewards.sampling import draw_prompts
from rewards.scoring import Scorer
from rewards.selectors import SelectTask, features, group_samples, listwise
from rewards.selectors.choosing import Choice, choose
from rewards.selectors.judging import judge
from rewards.shown import as_shown


def reward(context: Context) -> Metrics:
    """The reward model of this round. Round 0 trains one on the original pairs; later rounds take the one that was retrained last.

    The bag of words beside which it is judged is fitted on the original pairs in every round, so it is always the same.
    """
    backbone = context.backbone_with_sft()
    pairs = trainable(context, context.pairs("pairs"))
    if context.inputs.get("retrained"):
        scorer, num_pairs, start = Scorer.load(backbone, "reward", context.inputs["retrained"]), 0, "retrained"
    else:
        scorer, num_pairs, start = fit_reward_model(context, "reward", pairs), len(pairs), start_of(context)
        normalize(context, scorer)
    context.save_with_card(scorer.save)
    return {
        "pairs": num_pairs,
        "start": start,
        **judge_reward_model(context, scorer, pairs, "the reward model", "PPO may raise a score that knows no more than that"),
        "normalization": {"mean": scorer.mean, "std": scorer.std},
    }


def policy(context: Context) -> Metrics:
    """The policy of this round, by PPO or by DPO (`trainer`). Only PPO is given reward models."""
    return _by_ppo(context) if context.inputs.get("rewards") else _by_dpo(context)


def _by_ppo(context: Context) -> Metrics:
    """PPO against the reward model or the last round's features (`ppo.score`).

    The penalty is for the KL from the SFT policy, or from where PPO starts (`ppo.reference`).
    """
    backbone = context.backbone_with_sft()
    scorers = [Scorer.load(backbone, f"reward-{i}", path) for i, path in enumerate(context.inputs["rewards"])]
    trainer = _ppo_trainer(context, scorers)
    guard = make_guard(context, trainer)
    log = trainer.train(_prompt_batches(context), context.checkpoints, context.report, guard)
    context.save_with_card(lambda folder: backbone.save_adapter("policy", folder))
    if trainer.value and (value_adapter := trainer.value.adapter):
        context.save(lambda folder: backbone.save_adapter(value_adapter, folder / "value"))
    context.save_log(log)
    if guard.looks:
        context.save_rows("heldout.jsonl", rows_of(guard.looks))
    memory = trainer.resident_bytes()
    context.drop_adapters("policy", "value", "start", *(scorer.adapter for scorer in scorers))
    metrics = {"reference": trainer.reference, "updates": len(log), "memory": memory} | guard_metrics(guard, context.config.ppo.num_updates)
    kept = log[: guard.chosen]  # the updates of the policy that is given away
    if not kept:
        return metrics
    first, last = ends(kept)
    return metrics | {
        "objective/scores_first_updates": over_updates(first, "objective/scores"),
        "objective/scores_last_updates": over_updates(last, "objective/scores"),
        **({"objective/kl_last_updates": over_updates(last, "objective/kl")} if "objective/kl" in kept[-1] else {}),
        "val/response_length_last_update": kept[-1]["val/response_length"],
        "policy/entropy_avg_last_update": kept[-1]["policy/entropy_avg"],
    }


def _by_dpo(context: Context) -> Metrics:
    """DPO of the SFT policy, which is also the reference, on the rows that the reward model of this round was trained on.

    In round 0 these are the original pairs. Later they are in the record of the last round's `retrain`, so DPO and PPO have seen the same
    labels.
    """
    backbone, tokenizer, retrained = context.backbone_with_sft(), context.backbone.tokenizer, context.inputs.get("retrained")
    mixture = replay.Mixture.read(retrained / "mixture.json") if retrained else replay.ORIGINAL
    pairs = [pair for pair in mixture.rows(context.pairs("pairs"), context.labels()) if not pair.tie]
    encoded = [
        (
            encode_prompt(tokenizer, pair.prompt),
            encode_completion(tokenizer, pair.chosen, pair.chosen_finished),
            encode_completion(tokenizer, pair.rejected, pair.rejected_finished),
        )
        for pair in pairs
    ]
    backbone.add_adapter("policy", copy_of="sft")
    log = train_dpo(backbone, "policy", encoded, context.config.dpo, context.checkpoints, context.seed(), context.report, reference="sft")
    context.save_with_card(lambda folder: backbone.save_adapter("policy", folder), "dpo")
    context.save_log(log)
    context.drop_adapters("policy")
    return {
        "reference": "sft",
        "pairs": len(pairs),
        "mixture": replay.composition(pairs),
        "loss": final_loss(log),
        "accuracy": final(log, "rewards/accuracies"),
    }


def sample(context: Context) -> Metrics:
    """`num_completions` completions of each drawn prompt by this round's policy, and by the last round's if the config asks for it."""
    config = context.config.sample
    training, heldout = draw_prompts(context.prompts("prompts"), context.prompts("heldout_prompts"), config, context.seed)
    asked = training + heldout
    samples = _sample_from(context, "policy", asked, context.round)
    if context.inputs.get("last") and config.earlier_fraction:
        again = draw(asked, round(len(asked) * config.earlier_fraction), context.seed("earlier"))
        samples += _sample_from(context, "last", again, None if context.round is None else context.round - 1)
    context.save_rows("samples.jsonl", samples)
    context.drop_adapters("policy", "last")
    return {
        "samples": len(samples),
        "prompts": len(asked),
        "heldout_prompts": len(heldout),
        "different": len({(s.prompt_id, s.completion) for s in samples}),
        "length": summarize([s.num_tokens for s in samples])["mean"],
    }


def committee(context: Context) -> Metrics:
    """Only if `labeler.pick` is not `random`: what the reward model and the last round's selector think of the samples."""
    backbone, config, samples = context.backbone_with_sft(), context.config, _samples_in(context.inputs["samples"])
    tools = tools_with(context, Scorer.load(backbone, "reward", context.inputs["reward"]))
    groups, last = group_samples(samples), context.inputs.get("last")
    by_selector = used_selector(context, last, tools).score(groups) if last else None
    found = committees.ask(tools, groups, samples, by_selector, config.generation.temperature)
    context.save(lambda folder: committees.write(found, folder))
    context.drop_adapters("reward", listwise.LOADED)
    return {"samples": len(samples), "agreement": committees.agreement(found, samples)}


def retrain(context: Context) -> Metrics:
    """A new reward model, trained on the recorded mixture of original pairs and the comparisons of all rounds."""
    backbone, labels = context.backbone_with_sft(), context.labels()
    original, fresh = context.pairs("pairs"), [row for row in labels[-1] if row.heldout]
    mixture = replay.mix(original, labels, context.config.retrain, context.seed("mixture"), context.config.reward.targets == "soft")
    pairs = mixture.rows(original, labels)
    before = Scorer.load(backbone, "before", context.inputs["reward"])
    right_before = outcomes(before.score_answers, fresh)
    is_continued = context.config.retrain.init == "last"
    scorer = fit_reward_model(context, "reward", pairs, start=before if is_continued else None)
    normalize(context, scorer)
    context.save_with_card(scorer.save)
    context.save(lambda folder: mixture.write(folder / "mixture.json"))
    context.drop_adapters("before")
    right = outcomes(scorer.score_answers, fresh)
    return {
        "pairs": len(pairs),
        "start": "last" if is_continued else start_of(context),
        "mixture": replay.composition(pairs),
        **repeated_in(pairs),
        "accuracy_fresh_before": right_before.accuracy(),
        "accuracy_fresh": right.accuracy(),
        "accuracy_fresh_gain": (right - right_before).mean(),
        **judge_beside(scorer.score_answers, {SHORTER: shortest}, context.pairs("heldout_pairs")),
        "normalization": {"mean": scorer.mean, "std": scorer.std},
    }


def select(context: Context) -> Metrics:
    """The selectors. They are made from the comparisons of training prompts, and judged on this round's comparisons of held-out prompts.

    The last round's selectors are judged on the same comparisons. They have seen neither these prompts nor this round's policy. Where this
    round's own samples are looked at, `now`, scores come from the reward model that PPO used in this round, because that one has not seen
    their labels. For all that comes `later`, they come from the retrained one.
    """
    backbone, config, labels = context.backbone_with_sft(), context.config, context.labels()
    training = group_candidates([row for rows in labels for row in rows if not row.heldout])
    heldout = [row for row in labels[-1] if row.heldout]
    if not training:
        raise UserError(
            "the select stage has no prompt to train on: no two different completions of a prompt were compared",
            "this run's comparisons",
            "raise sample.num_prompts or sample.num_completions, or look whether the policy gives one answer only (ppo.kl_coefficient)",
        )
    now = tools_with(context, Scorer.load(backbone, "reward", context.inputs["reward"]))
    later = replace(now, reward=Scorer.load(backbone, "retrained", context.inputs["retrained"]))
    samples = _samples_in(context.inputs["samples"])
    groups = group_samples(samples, labels[-1])
    examples = examples_so_far(context, now, groups)
    fitted_on = [example for example in examples if not example.heldout]
    task = SelectTask(
        later,
        training,
        fitted_on,
        config.select,
        config.generation.temperature,
        context.checkpoints,
        context.report,
        context.seed(),
    )
    made = {kind: selectors.fit(kind, task) for kind in config.select.kinds}
    for kind, selector in made.items():
        save_selector(context, kind, selector)
    choices, split = choose(made[config.select.use].using(now), groups), Split(config.seed, config.data.heldout_fraction)
    if config.ppo.score == "features":
        save_selector(context, PPO_SCORE, features.fit_without_agreement(task))
    context.save_rows("chosen.jsonl", _chosen(choices, samples, split))
    context.save_rows(keeping.SCORES, keeping.score_rows(samples, choices))
    found = committees.ask(now, groups, samples, [list(choice.scores) for choice in choices], config.generation.temperature)
    shown_labels = [as_shown(row) for row in labels[-1]]
    context.save_rows("to_label.jsonl", committees.propose(found, [as_shown(sample) for sample in samples], shown_labels, split))
    judged, before = judge(made, groups, heldout), judge(made_before(context, now), groups, heldout)
    context.drop_adapters(listwise.TRAINED, listwise.LOADED, "reward", "retrained")
    return {"groups": len(training), "heldout_comparisons": len(heldout), "judged": judged, "judged_before": before}


def evaluate(context: Context) -> Metrics:
    """The policy on held-out prompts, and the reward models on the held-out pairs of every round.

    The SFT policy and the last round's policy had the same prompts and seeds, so they are compared with this one prompt by prompt.
    """
    backbone, inputs = context.backbone_with_sft(), context.inputs
    backbone.add_adapter("policy", folder=inputs["policy"])
    used = Scorer.load(backbone, "reward", inputs["reward"])
    found = context.evaluate("policy")
    gains = {f"{name}_over_sft": gain for name, gain in found.gains_over(inputs["baseline"]).items()}
    if inputs.get("last"):
        gains |= {f"{name}_over_last": gain for name, gain in found.gains_over(inputs["last"]).items()}
    score, sft_score = (measure_scores(used, samples) for samples in (found.samples, _samples_in(inputs["baseline"])))
    found = found.adding(proxy_score=score)
    context.save(found.write)
    newest = Scorer.load(backbone, "retrained", inputs["retrained"])
    metrics = found.summary() | {"proxy_gain": (score - sft_score).mean()} | gains | _accuracies(context, used, newest)
    if context.config.evaluate.best_of > 1:
        metrics |= _best_of(context, newest, found.samples)
    if num_probes := context.config.evaluate.probes:
        probed = probe(context.sampler, "policy", found.samples[:num_probes], used.score_samples)
        context.save_rows("probes.jsonl", probed.rows())
        metrics |= probed.summary()
    context.drop_adapters("policy", "reward", "retrained", listwise.LOADED)
    metrics |= win_metrics(context)
    return metrics | judge_policy(context, found, sft_score, metrics)


def _add_policy(context: Context) -> str:
    """Add the adapter that PPO trains, as `ppo.init` says. Round 0 starts from the SFT adapter.

    Returns the adapter from which the KL is measured.
    """
    config, backbone = context.config.ppo, context.backbone
    folder = context.inputs.get("start" if config.init == "selected" else "last")
    if config.init == "sft" or not folder:
        backbone.add_adapter("policy", copy_of="sft")
        return "sft"
    backbone.add_adapter("policy", folder=folder)
    if config.init == "interpolate":
        between = interpolate(backbone.adapter_state("sft"), backbone.adapter_state("policy"), config.interpolate_weight)
        backbone.set_adapter_state("policy", between)
    if config.reference == "start":
        backbone.add_adapter("start", copy_of="policy")
    return config.reference


def _ppo_trainer(context: Context, scorers: Sequence[Scorer]) -> ppo.PPOTrainer:
    """The trainer of the policy. The critic starts as the newest reward model."""
    config, backbone, newest = context.config, context.backbone, scorers[-1]
    reference = _add_policy(context)
    value = None
    if config.ppo.has_critic:
        value_adapter = "value" if config.ppo.value_model == "adapter" else None
        if value_adapter:
            backbone.add_adapter(value_adapter, copy_of=newest.adapter)
        value = ppo.ValueModel(backbone, *newest.normalized_head, adapter=value_adapter)
    score = score_function(context, scorers)
    return ppo.PPOTrainer(backbone, value, score, config.ppo, config.generation, context.seed(), reference=reference)


def _prompt_batches(context: Context) -> list[list[EncodedPrompt]]:
    """The prompts of each PPO update."""
    config, tokenizer, records = context.config.ppo, context.backbone.tokenizer, context.prompts("prompts")
    num_prompts = config.batch_size // config.samples_per_prompt
    batches = prompt_batches(len(records), num_prompts, config.num_updates, context.seed("prompts"))
    asked = {i: records[i] for rows in batches for i in rows}
    prompts = {i: EncodedPrompt(encode_prompt(tokenizer, r.prompt), r.prompt, r.prompt_id, r.source) for i, r in asked.items()}
    return [[prompts[i] for i in rows] for rows in batches]


def _sample_from(context: Context, policy: str, prompts: Sequence[PromptRecord], policy_round: int | None) -> list[Sample]:
    """Samples of one of the input policies, `policy` or `last`."""
    context.backbone.add_adapter(policy, folder=context.inputs[policy])
    digest, num = context.digest(policy), context.config.sample.num_completions
    return context.sampler.sample(policy, prompts, num, context.round, policy_round, digest, context.seed)


def _samples_in(folder: Path) -> list[Sample]:
    return read_jsonl(folder / "samples.jsonl", Sample)


def _chosen(choices: Sequence[Choice], samples: Sequence[Sample], split: Split) -> list[dict[str, Any]]:
    """The favorite of each prompt, as rows. `sample_id` is empty for a completion that came with a label."""
    ids = {(s.prompt_id, s.completion, s.finished): s.id for s in reversed(samples)}
    prompts = {s.prompt_id: as_shown(s).prompt for s in samples}
    return [
        choice.row()
        | {
            "sample_id": ids.get((choice.group.prompt_id, choice.answer.completion, choice.answer.finished), ""),
            "heldout": split.holds_out(prompts.get(choice.group.prompt_id, choice.group.prompt)),
        }
        for choice in choices
    ]


def _best_of(context: Context, reward: Scorer, first: Sequence[Sample]) -> Metrics:
    """What the selector's choice among several completions of each held-out prompt is worth. Neither it nor `reward` has seen them."""
    config = context.config
    selector = used_selector(context, context.inputs["select"], tools_with(context, reward))
    seed = context.run_seed("evaluate")
    best = choose_best_of(context.sampler, "policy", first, config.evaluate.best_of, seed, selector, context.gold)
    context.save(best.write)
    return dict(best.summary())


def _accuracies(context: Context, used: Scorer, retrained: Scorer) -> Metrics:
    """The reward model that PPO used and the retrained one, on the original held-out pairs and on those of every round."""
    parts = {"original": context.pairs("heldout_pairs")}
    parts |= {f"round-{r:03d}": [row for row in rows if row.heldout] for r, rows in enumerate(context.labels())}
    right = {name: (outcomes(used.score_answers, rows), outcomes(retrained.score_answers, rows)) for name, rows in parts.items()}
    return {
        "reward_accuracy": {name: before.accuracy() for name, (before, _) in right.items()},
        "retrained_accuracy": {name: after.accuracy() for name, (_, after) in right.items()},
        "retrained_gain": {name: (after - before).mean() for name, (before, after) in right.items()},
    }
