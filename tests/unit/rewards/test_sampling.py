"""Samples of a policy as records: seeds, ids, and what is shown of them while they are drawn."""

from configs.schema import GenerationConfig, SampleConfig
from configs.seeds import derive_seed
from policies.checkpoints import Checkpoints
from policies.tokenization import decode_completion
from rewards.comparisons import PromptRecord
from rewards.sampling import TEXTS_SHOWN, Sampler, draw_prompts

RECORDS = [PromptRecord(f"p{i}", f"question {i}", "mail") for i in range(5)]


def sampler(backbone, reports):
    def report(done, total, metrics=None, texts=()):
        reports.append((done, total, texts))

    return Sampler(backbone, GenerationConfig(max_new_tokens=4, batch_size=8), Checkpoints(), report)


def seed_of(*names):
    return derive_seed("run", *names)


def test_samples_are_reported_with_their_prompts_shard_by_shard(backbone):
    """Five prompts with two completions each are ten; a shard is eight."""
    backbone.add_adapter("policy")
    reports = []
    samples = sampler(backbone, reports).sample("policy", RECORDS, 2, 1, 1, "digest", seed_of)
    assert [sample.id for sample in samples[:3]] == ["1-1-p0-0", "1-1-p0-1", "1-1-p1-0"] and len(samples) == 10
    assert [(done, total) for done, total, _ in reports] == [(8, 10), (10, 10)]
    first, last = (texts for _, _, texts in reports)
    assert first == [f"{sample.prompt}\n{sample.completion}" for sample in samples[:TEXTS_SHOWN]]
    assert last == [f"{sample.prompt}\n{sample.completion}" for sample in samples[8:]]


def test_a_completion_depends_on_its_own_prompt_and_seed_only(backbone):
    backbone.add_adapter("policy")
    asker = sampler(backbone, [])
    seeds = [seed_of(record.prompt_id) for record in RECORDS]
    together = asker.respond("policy", RECORDS, seeds, "all")
    alone = [asker.respond("policy", [record], [seed], record.prompt_id)[0] for record, seed in zip(RECORDS, seeds, strict=True)]
    assert [r.token_ids for r in together] == [r.token_ids for r in alone]
    assert len({decode_completion(backbone.tokenizer, r.token_ids) for r in together}) > 1


def test_both_sides_are_asked_even_of_few_prompts():
    for fraction in (0.01, 0.5, 0.99):
        config = SampleConfig(num_prompts=4, heldout_fraction=fraction)
        training, heldout = draw_prompts(RECORDS, RECORDS, config, seed_of)
        assert len(training) + len(heldout) == 4 and training and heldout
