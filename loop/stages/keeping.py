"""The stages that turn samples into training data: what is kept, and the policy that is refreshed with it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean

from configs.errors import UserError
from loop.stages.context import Context, Metrics
from policies.sft import train_sft
from policies.tokenization import encode_completion, encode_prompt
from policies.training import final_loss
from rewards import keeping
from rewards.comparisons import Sample, read_jsonl
from rewards.data.splits import Split
from rewards.gold import Gold
from rewards.keeping import Kept
from rewards.measurements import Measurement
from rewards.replay import origin
from rewards.shown import as_shown


def keep(context: Context) -> Metrics:
    """The completions that become training data: the best of this round's samples, and those that earlier rounds have kept.

    The scores are those that the stage `select` has written. Rows of earlier rounds are not scored again, so a round costs the same
    however many there were. Samples of held-out prompts are never candidates.
    """
    config = context.config
    split = Split(config.seed, config.data.heldout_fraction)
    drawn = read_jsonl(context.inputs["samples"] / "samples.jsonl", Sample)
    samples = [sample for sample in drawn if not split.holds_out(as_shown(sample).prompt)]
    by_prompt, scores = _by_prompt(samples), keeping.read_scores(context.inputs["select"])
    of_prompts = [[scores[sample.id] for sample in of_prompt] for of_prompt in by_prompt.values()]
    earlier = keeping.read_kept(context.inputs["last"]) if context.inputs.get("last") else []
    ranked = keeping.rank(list(by_prompt.values()), of_prompts, context.seed("order"))
    kept, left_out = keeping.keep([*ranked, *earlier], config.keep, context.rules(config.keep.filters))
    context.save_rows(keeping.FILE, [row.row() for row in kept])
    context.report(1, 1)
    drawn_now = {sample.id for sample in samples}
    counts = {
        "generated": len(samples),
        "carried": len(earlier),
        "kept": len(kept),
        "newly_kept": dict(Counter(row.source for row in kept if row.id in drawn_now)),
        "kept_by_round": dict(Counter(origin(row.generation) for row in kept)),
        "left_out": dict(left_out),
    }
    return counts | (_gold(context.gold, by_prompt, kept) if context.gold else {})


def refresh(context: Context) -> Metrics:
    """The SFT policy, fine-tuned on the kept completions and on original chosen ones. PPO of the next round starts from it."""
    config, backbone = context.config.keep, context.backbone_with_sft()
    kept = keeping.read_kept(context.inputs["keep"])
    if not kept:
        raise UserError(
            "the refresh stage has no completion to train on: no sample of the rounds so far is kept",
            "this run's samples",
            "look at the reasons in `loop status --json` (keep, left_out), and choose fewer keep.filters or raise keep.max_rows",
        )
    original = keeping.draw_original(context.pairs("pairs"), len(kept), config.original_fraction, context.seed("original"))
    rows = [(row.prompt, row.completion, row.finished) for row in kept]
    rows += [(pair.prompt, pair.chosen, pair.chosen_finished) for pair in original]
    tokenizer = backbone.tokenizer
    examples = [(encode_prompt(tokenizer, prompt), encode_completion(tokenizer, text, finished)) for prompt, text, finished in rows]
    backbone.add_adapter("refresh", copy_of="sft")
    log = train_sft(backbone, "refresh", examples, config, context.checkpoints, context.seed(), context.report)
    context.save_with_card(lambda folder: backbone.save_adapter("refresh", folder))
    context.save_log(log)
    context.drop_adapters("refresh")
    by_origin = Counter(origin(row.generation) for row in kept) + Counter({"original": len(original)})
    return {"loss": final_loss(log), "rows": len(rows), "mixture": dict(by_origin)}


def _by_prompt(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    """The samples of each prompt, in their order."""
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        found.setdefault(sample.prompt_id, []).append(sample)
    return found


def _gold(true_reward: Gold, by_prompt: Mapping[str, Sequence[Sample]], kept: Sequence[Kept]) -> Metrics:
    """The true reward of the completions of this round that are kept, beside that of all samples of the same prompts."""
    gold = true_reward([sample for samples in by_prompt.values() for sample in samples])
    of_kept: dict[str, list[float]] = {}
    for row in kept:
        if row.id in gold:
            of_kept.setdefault(row.prompt_id, []).append(gold[row.id])
    units = list(of_kept)
    best = Measurement([fmean(values) for values in of_kept.values()], units)
    drawn = Measurement([fmean(gold[sample.id] for sample in by_prompt[unit]) for unit in units], units)
    return {"gold": best.mean(), "gold_over_samples": (best - drawn).mean()}
