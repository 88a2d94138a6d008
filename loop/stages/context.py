"""What a stage is given: its part of the config, its inputs, an empty output directory, and ways to report and to save."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from configs.schema import RunConfig
from configs.seeds import derive_seed
from configs.views import covers
from loop.store.layout import MANIFEST
from policies import parallel
from policies.backbone import Backbone
from policies.checkpoints import Checkpoints
from policies.model_card import write_card
from policies.reporting import Report
from rewards.comparisons import Comparison, Demonstration, PromptRecord, read_jsonl, write_jsonl
from rewards.data.lengths import TokenLimits
from rewards.data.row_files import RowFile, StoredRows
from rewards.evaluation import Evaluation, evaluate_policy
from rewards.gold import Gold, find_gold
from rewards.pivoting import Pivoting
from rewards.rules import find_rules
from rewards.rules.reply import Rule
from rewards.sampling import Sampler

Metrics = dict[str, Any]


@dataclass
class Context:
    """The surroundings of one stage. `output` is an empty directory. `inputs` are committed directories, or lists of them.

    `config` shows the settings that the stage's key covers. Reading any other raises UndeclaredSetting (`configs/views.py`).
    `report` tells the outside how far the stage is.
    """

    stage: str
    round: int | None
    config: RunConfig
    inputs: dict[str, Any]
    output: Path
    checkpoints: Checkpoints
    report: Report
    get_backbone: Callable[[Path], Backbone]

    # -- what the stage reads -----------------------------------------------------------------------------------------

    def seed(self, *names: object) -> int:
        """A seed that depends on the run's seed, the round, the stage and `names`."""
        return derive_seed(self.config.seed, "setup" if self.round is None else self.round, self.stage, *names)

    def run_seed(self, name: str) -> int:
        """A seed that is the same in every stage and round of the run."""
        return derive_seed(self.config.seed, name)

    @property
    def backbone(self) -> Backbone:
        """The base model, with the adapters that the stage has added."""
        return self.get_backbone(self.inputs["base"])

    def backbone_with_sft(self) -> Backbone:
        """The base model with the SFT adapter, which is every round's reference."""
        self.backbone.add_adapter("sft", folder=self.inputs["sft"])
        return self.backbone

    @property
    def scratch(self) -> Path:
        """A folder for what the stage needs only while it runs. It is beside the output, so nothing in it can become part of that."""
        return self.output.parent

    @property
    def sampler(self) -> Sampler:
        """Asks policies of the backbone for completions."""
        return Sampler(self.backbone, self.config.generation, self.checkpoints, self.report, self.pivot)

    @cached_property
    def pivot(self) -> Pivoting | None:
        """Answers by way of another language; None where the run answers directly: then no stage declares the section."""
        return Pivoting(self.config.pivot, self.checkpoints, self.report) if covers(self.config, "pivot") else None

    @property
    def limits(self) -> TokenLimits:
        """The token limits of prompts and completions, in tokens of the base's tokenizer."""
        data = self.config.data
        return TokenLimits(self.backbone.tokenizer, data.max_prompt_tokens, data.max_completion_tokens)

    def prompts(self, name: str) -> Sequence[PromptRecord]:
        """`prompts` or `heldout_prompts`. After the `filter` stage these are the ones that are short enough.

        They stay in their file until somebody asks for one: a run may have millions of prompts, and a stage draws a few hundred.
        """
        return self.stored_rows(name, PromptRecord)

    def pairs(self, name: str) -> list[Comparison]:
        """`pairs`, `heldout_pairs` or `labeler_pairs`. After the `filter` stage these are the ones that are short enough."""
        return read_jsonl(self.inputs["data"] / f"{name}.jsonl", Comparison)

    def answers(self) -> list[Demonstration]:
        """The single answers that SFT is trained on beside the pairs. Without a source of answers, there is no such file."""
        return read_jsonl(self.inputs["data"] / "answers.jsonl", Demonstration) if self.has_answers else []

    @property
    def has_answers(self) -> bool:
        """Whether the run has single answers."""
        return (self.inputs["data"] / "answers.jsonl").exists()

    def stored_rows(self, name: str, kind: type[Any]) -> StoredRows[Any]:
        """The rows of one of the files that `pairs` and `prompts` read. They stay there, because the original data may be large."""
        return StoredRows.of(self.inputs["data"] / f"{name}.jsonl", kind)

    def labels(self) -> list[list[Comparison]]:
        """The comparisons of all rounds so far, by round. The last entry is this round's, once they are there."""
        return [read_jsonl(path / "comparisons.jsonl", Comparison) for path in self.inputs.get("labels", [])]

    @property
    def gold(self) -> Gold | None:
        """What gives completions of the run's prompts their true reward, if anything does."""
        return find_gold(self.config.data.source, self.config.evaluate.gold)

    def rules(self, names: Sequence[str]) -> dict[str, Rule]:
        """The rules of these names, as this run uses them for what its policies read and write."""
        expected = self.config.rules.expected_language
        return find_rules(names, self.pivot.expected_language(expected) if self.pivot else expected)

    def evaluate(self, adapter: str) -> Evaluation:
        """A policy on the held-out prompts of the run. Prompts and seeds are the same in every stage and round."""
        prompts, seed = self.prompts("heldout_prompts"), self.run_seed("evaluate")
        language = self.config.rules.expected_language
        return evaluate_policy(self.sampler, adapter, prompts, self.config.evaluate, seed, self.round, self.gold, language)

    def digest(self, name: str) -> str:
        """The digest of one of the input directories."""
        return json.loads((self.inputs[name] / MANIFEST).read_text(encoding="utf-8"))["digest"]

    # -- what the stage writes ----------------------------------------------------------------------------------------

    def save(self, write: Callable[[Path], object]) -> None:
        """Call `write` with the output directory, on the main worker only."""
        if parallel.is_main():
            write(self.output)

    def save_rows(self, name: str, rows: Iterable[Any]) -> None:
        """Write records as JSON lines, on the main worker only."""
        self.save(lambda folder: rows.write(folder / name) if isinstance(rows, RowFile) else write_jsonl(folder / name, rows))

    def save_json(self, name: str, value: Any) -> None:
        """Write one JSON object, on the main worker only."""
        self.save(lambda folder: (folder / name).write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8"))

    def save_log(self, rows: Iterable[dict[str, float]]) -> None:
        """Write a training log, one step a line."""
        self.save_rows("metrics.jsonl", rows)

    def save_with_card(self, write: Callable[[Path], object], what: str | None = None) -> None:
        """Save an adapter that users may take away, and a model card beside it. what: which card, if it is not that of the stage."""
        self.save(write)
        self.save(lambda folder: write_card(folder, self.backbone, what or self.stage, self.round))

    def drop_adapters(self, *names: str) -> None:
        """Free adapters that later stages do not need."""
        for name in names:
            self.backbone.delete_adapter(name)
