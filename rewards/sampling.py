"""Completions that a policy gives to prompts, as `Sample` records.

Each completion has a seed of its own, which depends on its prompt and not on what else is sampled. Two policies that are asked
with the same seeds can therefore be compared prompt by prompt.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from configs.schema import GenerationConfig, SampleConfig
from configs.seeds import draw
from policies.backbone import Backbone
from policies.checkpoints import Checkpoints
from policies.generation import generate_sharded
from policies.reporting import Report
from policies.responses import Response
from policies.tokenization import decode_completion, encode_prompt, last_turn
from rewards.comparisons import PromptRecord, Sample, sample_id
from rewards.pivoting import Pivoting

SeedOf = Callable[..., int]
"""A seed from names, for example `seed_of("prompts")`."""
TEXTS_SHOWN = 3
"""How many samples of each shard are reported while a policy is sampled."""


@dataclass(frozen=True)
class Sampler:
    """Asks the policies of one backbone. All workers share the work, and finished shards are kept in `checkpoints`.

    pivot: translates the answers to prompts in its scope back for people; None if all prompts are answered directly.
    """

    backbone: Backbone
    config: GenerationConfig
    checkpoints: Checkpoints
    report: Report
    pivot: Pivoting | None = None

    def respond(self, adapter: str, records: Sequence[PromptRecord], seeds: Sequence[int], shards: str) -> list[Response]:
        """One response of the policy `adapter` to each record. `shards` names this work in the checkpoints."""
        return generate_sharded(
            self.backbone,
            adapter,
            self.encode(records),
            seeds,
            self.config,
            self.checkpoints,
            shards,
            lambda done, responses: self._report(records, done, responses),
        )

    def _report(self, records: Sequence[PromptRecord], done: int, responses: Sequence[Response]) -> None:
        """Show the first responses of a shard that ends before item `done`, and the mean length of its responses in tokens."""
        shown = zip(records[done - len(responses) :], responses[:TEXTS_SHOWN], strict=False)
        texts = [f"{last_turn(record.prompt)}\n{decode_completion(self.backbone.tokenizer, r.token_ids)}" for record, r in shown]
        length = sum(len(response.token_ids) for response in responses) / max(1, len(responses))
        self.report(done, len(records), {"length": length}, texts)

    def encode(self, records: Sequence[PromptRecord]) -> list[list[int]]:
        """The token ids of each prompt."""
        return [encode_prompt(self.backbone.tokenizer, record.prompt) for record in records]

    def sample(
        self,
        adapter: str,
        records: Sequence[PromptRecord],
        num_completions: int,
        round_number: int | None,
        policy_round: int | None,
        policy_digest: str,
        seed_of: SeedOf,
    ) -> list[Sample]:
        """`num_completions` completions of each prompt for the labeler. `policy_round` is the round whose policy `adapter` is."""
        shards = f"generation-{policy_round}"
        asked = [(record, k) for record in records for k in range(num_completions)]
        seeds = [seed_of(shards, record.prompt_id, k) for record, k in asked]
        responses = self.respond(adapter, [record for record, _ in asked], seeds, shards)
        config = self.config
        decoding: dict[str, float | list[str]] = {"temperature": config.temperature, "top_k": config.top_k, "top_p": config.top_p}
        decoding |= {"stop_strings": config.stop_strings} if config.stop_strings else {}
        samples = [
            replace(
                self.make_sample(sample_id(round_number, policy_round, record.prompt_id, k), record, response, policy_round),
                k=k,
                policy=policy_digest,
                decoding=decoding,
            )
            for (record, k), response in zip(asked, responses, strict=True)
        ]
        return self.shown(samples, shards)

    def shown(self, samples: list[Sample], shards: str) -> list[Sample]:
        """The samples with the answers that people see beside the policy's own. `shards` names this work in the checkpoints."""
        return self.pivot.show(samples, shards) if self.pivot else samples

    def make_sample(self, id: str, record: PromptRecord, response: Response, policy_round: int | None) -> Sample:
        """The first completion of a prompt as a record. `policy_round` is the round of the policy that was asked."""
        return Sample(
            id=id,
            prompt_id=record.prompt_id,
            prompt=record.prompt,
            completion=decode_completion(self.backbone.tokenizer, response.token_ids),
            finished=response.finished,
            generation=policy_round,
            k=0,
            source=record.source,
            unseen_fact=record.unseen_fact,
            num_tokens=len(response.token_ids),
            pivot=record.pivot,
        )


def draw_prompts(
    training: Sequence[PromptRecord], heldout: Sequence[PromptRecord], config: SampleConfig, seed_of: SeedOf
) -> tuple[list[PromptRecord], list[PromptRecord]]:
    """The training prompts and the held-out prompts that a round asks, at least one of each.

    Comparisons of training prompts are trained on. Comparisons of held-out prompts judge the reward model and the selector.
    """
    num_heldout = min(max(1, round(config.num_prompts * config.heldout_fraction)), config.num_prompts - 1)
    return draw(training, config.num_prompts - num_heldout, seed_of("prompts")), draw(heldout, num_heldout, seed_of("heldout"))
