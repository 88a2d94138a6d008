"""Does preference-model pretraining save labels? Prints the tables of docs/pmp.md: held-out accuracy by the number of pairs, with and
without it.

    python -m tests.benchmarks.pmp world [KEY=VALUE ...] [--seeds 0 1 2 3 4] [--sizes 100 300 1000 3000 10000] [--folder DIR]
    python -m tests.benchmarks.pmp stackexchange [KEY=VALUE ...] [--site music_meta] ...

`world`: made votes on the embedded world (rewards/world/votes.py), then pairs that the gold reward labels. `stackexchange`: the votes of
four of the sites in the folder that LOOP_SHARED_DATA names, then those of the fifth as the pairs. Each seed splits the questions, makes
its own votes, and trains everything but the base, which is one for all seeds: in `stackexchange` a tiny one that reads the questions and
answers of the four sites and is not told which answer is better.

Of each seed, SFT is trained on the better answers of the votes. From there, all arms train a reward model on the same first n pairs:

    sft         with a new head
    pmp         after preference-model pretraining on the votes
    binarized   the same with `pmp.binarised`

So all arms have read the same texts, and only the last two were told which answer is better. A reward model is trained as in a run, but
with few pairs for at least MIN_STEPS steps. What was measured is kept in the folder and not made again. A folder is for one set of
settings: with others (KEY=VALUE), give another one.
"""

import argparse
import json
import random
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from configs import load_config
from configs.schema import RunConfig
from configs.seeds import derive_seed, draw
from loop.experiments.intervals import paired
from loop.stages.setup import NUM_PRETRAINING_DIALOGUES
from policies.adapters import WEIGHTS_FILE
from policies.backbone import Backbone
from policies.checkpoints import Checkpoints
from policies.reporting import report_nothing
from policies.sft import train_sft
from policies.tiny_base import train_tiny_base
from policies.tokenization import encode_completion, encode_prompt
from policies.training import quiet
from rewards.baselines import fit_bag_of_words, shortest
from rewards.comparisons import Comparison, write_jsonl
from rewards.data.formats.html_text import html_to_text
from rewards.data.json_lines import try_json_lines
from rewards.data.lengths import TokenLimits
from rewards.data.normalizing import normalize
from rewards.data.preference_data import load_preference_data
from rewards.measurements import summarize
from rewards.pretraining import as_data, asked_as, train_preference_model
from rewards.reward_model import Chooser, outcomes, train_reward_model
from rewards.scoring import Scorer
from rewards.world import votes, writer
from tests.conftest import SHARED_DATA

SITES = ("coffee", "genai", "history_meta", "meta_mathoverflow_net", "music_meta")
WORLD = ("data.num_pairs=10000", "pmp.max_pairs=6000")
STACK_EXCHANGE = (
    "labeler.kind=preferences-file",
    "labeler.path=none.jsonl",  # nothing is labeled here
    "data.heldout_fraction=0.3333",
    "data.max_prompt_tokens=256",
    "data.max_completion_tokens=192",
    "base.vocabulary_size=4096",
    "base.pretraining_steps=200",
)
ARMS, SIZES = ("sft", "pmp", "binarised"), (100, 300, 1000, 3000, 10000)
MIN_STEPS = 40
MAX_HELDOUT = 1500
PER_QUESTION, LETTERS = 6, (300, 250)
"""Of a site: the most pairs of a question, because one with 25 answers would have 300, and the letters of questions and answers that the
models read. The simple baselines judge whole answers."""


@dataclass(frozen=True)
class Task:
    """One of the two experiments. dialogues: what the base reads. choose: which of the pairs are used, and in which form."""

    config: RunConfig
    dialogues: Callable[[], Sequence[tuple[Any, str]]]
    baselines: dict[str, Chooser]
    choose: Callable[[Sequence[Comparison]], list[tuple[Comparison, Comparison]]] = lambda pairs: [(pair, pair) for pair in pairs]
    """(as it is, as the models read it)"""


def world(seed: int, folder: Path, words: Sequence[str]) -> Task:
    """The embedded world."""
    path = folder / f"votes-{seed}.jsonl"
    write_jsonl(path, votes.rows(seed))
    config = load_config(overrides=[*WORLD, f"pmp.sources=[{{path: {path}}}]", *words], seed=seed)
    return Task(config, lambda: list(writer.pretraining_dialogues(writer.pretraining_prompts(), 0, NUM_PRETRAINING_DIALOGUES)), {})


def stack_exchange(seed: int, site: str, words: Sequence[str]) -> Task:
    """One site's votes as pairs, the others' as votes."""
    files = {name: SHARED_DATA / "stackexchange" / f"{name}.jsonl.gz" for name in SITES}
    if not files[site].exists():
        raise SystemExit(f"the real votes are not here: {files[site]} (set LOOP_SHARED_DATA)")
    sources = ", ".join(f"{{path: {path}}}" for name, path in files.items() if name != site)
    config = load_config(overrides=[f"data={files[site]}", f"pmp.sources=[{sources}]", *STACK_EXCHANGE, *words], seed=seed)

    def dialogues() -> list[tuple[Any, str]]:
        pairs = load_preference_data(as_data(config), seed).pairs
        texts = dict.fromkeys((pair.prompt, answer) for pair in pairs for answer in (pair.chosen, pair.rejected))
        return [([{"role": "user", "content": prompt}], answer) for prompt, answer in texts]

    baselines: dict[str, Chooser] = {
        "longer": lambda answers: [-score for score in shortest(answers)],
        "posted earlier": earlier(files[site]),
    }
    return Task(config, dialogues, baselines, lambda pairs: cut(pairs, seed))


def cut(pairs: Sequence[Comparison], seed: int) -> list[tuple[Comparison, Comparison]]:
    """At most PER_QUESTION pairs of each question, and what the models read of them: the beginnings, if they differ."""
    by_question: dict[str, list[tuple[Comparison, Comparison]]] = {}
    question, answer = LETTERS
    for pair in pairs:
        read = replace(pair, prompt=str(pair.prompt)[:question], chosen=pair.chosen[:answer], rejected=pair.rejected[:answer])
        if read.chosen != read.rejected:
            by_question.setdefault(pair.prompt_id, []).append((pair, read))
    return [one for id, rows in by_question.items() for one in draw(rows, PER_QUESTION, derive_seed(seed, "pairs of", id))]


def earlier(file: Path) -> Chooser:
    """Scores answers of a site by their date: the earlier, the higher. No model is told a date."""
    dates: dict[str, str] = {}
    for _, row in try_json_lines(file):
        for answer in row["answers"] if isinstance(row, dict) else []:
            dates.setdefault(normalize(html_to_text(answer["body_html"]), Counter()), answer["date"])
    places = {date: float(place) for place, date in enumerate(sorted(set(dates.values())))}
    return lambda answers: [-places[dates[answer.completion]] for answer in answers]


class Seed:
    """What is measured of one seed. It is written down after each model, and nothing that is there is made again."""

    def __init__(self, task: Task, folder: Path, words: Sequence[str]):
        """words: the settings that the user gives, which are written down too."""
        self.task, self.folder, self.started = task, folder, time.monotonic()
        self.number, self.path = task.config.seed, folder / f"seed-{task.config.seed}.json"
        self.models = folder / f"models-{self.number}"
        self.found: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {"arms": {}}
        self.found["settings"] = list(words)

    def note(self, text: str) -> None:
        """Write down what there is, and say what was done."""
        self.path.write_text(json.dumps(self.found, indent=1) + "\n", encoding="utf-8")
        print(f"seed {self.number}: {time.monotonic() - self.started:4.0f} s, {text}", flush=True)

    def measure(self, arms: Sequence[str], sizes: Sequence[int]) -> None:
        """Measure what is not measured yet. The baselines are those of the largest size at most."""
        if all(str(size) in self.found["arms"].get(arm, {}) for arm in arms for size in sizes):
            return
        backbone, config = self.load_base(), self.task.config
        limits = TokenLimits(backbone.tokenizer, config.data.max_prompt_tokens, config.data.max_completion_tokens)
        data, of_votes = load_preference_data(config.data, self.number), load_preference_data(as_data(config), self.number)
        training, judging, learnt, unseen = (
            [(pair, read) for pair, read in self.task.choose(pairs) if limits.excess(read) is None]
            for pairs in (data.pairs, data.heldout, of_votes.pairs, of_votes.heldout)
        )
        random.Random(derive_seed(self.number, "order of pairs")).shuffle(training)  # the first n are among the first n + 1
        judging = draw(judging, MAX_HELDOUT, derive_seed(self.number, "held out"))
        self.found |= {"training": len(training), "heldout": len(judging), "votes": len(learnt), "heldout_votes": len(unseen)}
        self.measure_baselines([pair for pair, _ in training], [pair for pair, _ in judging], sizes)
        self.measure_arms(backbone, arms, sizes, *([read for _, read in rows] for rows in (training, judging, learnt, unseen)))

    def measure_arms(
        self,
        backbone: Backbone,
        arms: Sequence[str],
        sizes: Sequence[int],
        training: Sequence[Comparison],
        heldout: Sequence[Comparison],
        votes: Sequence[Comparison],
        unseen: Sequence[Comparison],
    ) -> None:
        """Each arm with each number of pairs."""
        config, like = self.task.config, training[0].prompt
        learnt, unseen = asked_as(votes, like), asked_as(unseen, like)
        self.load_sft(backbone, learnt)
        for arm in arms:
            done = self.found["arms"].setdefault(arm, {})
            start = None if arm == "sft" else self.load_start(backbone, arm, learnt)
            if start and "votes" not in done:
                done |= {"0": accuracy(start.score_answers, heldout), "votes": accuracy(start.score_answers, unseen)}
                self.note(f"{arm}: {done['0']:.3f} without a pair, {done['votes']:.3f} on held-out votes")
            for size in (size for size in sizes if str(size) not in done and size <= len(training)):
                done[str(size)] = accuracy(fine_tune(backbone, training[:size], config, start), heldout)
                self.note(f"{arm}, {size} pairs: {done[str(size)]:.3f}")

    def measure_baselines(self, training: Sequence[Comparison], heldout: Sequence[Comparison], sizes: Sequence[int]) -> None:
        """The simple ways to choose, and a bag of words for each number of pairs."""
        for name, chooser in {"shorter": shortest, **self.task.baselines}.items():
            self.found["arms"][name] = {"0": accuracy(chooser, heldout)}
        of_words = self.found["arms"].setdefault("bag of words", {})
        of_words |= {str(size): accuracy(fit_bag_of_words(training[:size]), heldout) for size in sizes if size <= len(training)}
        self.note(f"baselines on {len(heldout)} of the pairs; {len(training)} are for training")

    def load_base(self) -> Backbone:
        """The base that all seeds share, and which the first one trains."""
        config, base = self.task.config, self.folder / "base"
        if not (base / "config.json").exists():
            train_tiny_base(self.task.dialogues(), config.base, base, Checkpoints(), derive_seed("base"), report_nothing)
            self.note("the base is trained")
        return Backbone.load(str(base), config.base.model_copy(update={"model": str(base)}), config.lora)

    def load_sft(self, backbone: Backbone, pairs: Sequence[Comparison]) -> None:
        """The adapter `sft`, which is trained on the better answers of the votes, each once."""
        tokenizer, seed, folder = backbone.tokenizer, derive_seed(self.number, "sft"), self.models / "sft"
        if not (folder / WEIGHTS_FILE).exists():
            answers = {(repr(pair.prompt), pair.chosen): pair for pair in pairs}.values()
            examples = [(encode_prompt(tokenizer, pair.prompt), encode_completion(tokenizer, pair.chosen)) for pair in answers]
            backbone.add_adapter("sft", seed=seed)
            train_sft(backbone, "sft", examples, self.task.config.sft, Checkpoints(), seed, report_nothing)
            backbone.save_adapter("sft", folder)
            self.note(f"SFT on {len(examples)} answers")
        backbone.add_adapter("sft", folder=folder)

    def load_start(self, backbone: Backbone, arm: str, pairs: Sequence[Comparison]) -> Scorer:
        """The preference model of an arm."""
        folder, seed = self.models / arm, derive_seed(self.number, arm)
        if not (folder / "normalization.json").exists():
            backbone.add_adapter(arm, copy_of="sft")
            settings = self.task.config.pmp.model_copy(update={"binarised": arm == "binarised"})
            train_preference_model(backbone, arm, pairs, settings, Checkpoints(), seed, report_nothing)[0].save(folder)
        return Scorer.load(backbone, arm, folder)


def check_settings(folder: Path, words: Sequence[str]) -> None:
    """Exits if a seed in the folder was measured with other settings: its figures and the base would be taken for those of these ones."""
    for path in sorted(folder.glob("seed-*.json")):
        before = json.loads(path.read_text(encoding="utf-8")).get("settings")
        if before != list(words):
            known = "unknown settings" if before is None else " ".join(before) or "the default settings"
            raise SystemExit(f"{path} was measured with {known}: give another --folder")


def fine_tune(backbone: Backbone, pairs: Sequence[Comparison], config: RunConfig, start: Scorer | None) -> Chooser:
    """A reward model that starts where the arm starts. All arms train on the same batches."""
    backbone.add_adapter("reward", copy_of=start.adapter if start else "sft")
    epochs = max(config.reward.num_epochs, MIN_STEPS * config.reward.batch_size / len(pairs))
    settings = config.reward.model_copy(update={"num_epochs": epochs})
    seed, head = derive_seed(config.seed, "reward", len(pairs)), start.head if start else None
    return train_reward_model(backbone, "reward", pairs, settings, Checkpoints(), seed, report_nothing, head)[0].score_answers


def accuracy(chooser: Chooser, pairs: Sequence[Comparison]) -> float:
    """How often the chosen completion scores higher."""
    return float(outcomes(chooser, pairs).mean()["mean"] or 0.0)


def table(folder: Path, arms: Sequence[str]) -> str:
    """Means over the seeds that are measured, and differences seed by seed, with 95 % intervals of Student's t."""
    seeds = {int(path.stem[5:]): json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("seed-*.json")}
    of_arms = {arm: by_size({seed: found["arms"].get(arm, {}) for seed, found in seeds.items()}) for arm in all_arms(seeds)}
    first = next(iter(seeds.values()))
    others = [arm for arm in arms if arm != "sft" and arm in of_arms]
    lines = [
        f"{len(seeds)} seeds; in the first one {first['votes']} pairs of votes, {first['training']} pairs, {first['heldout']} held out",
        "",
        f"| pairs | {' | '.join(['bag of words', 'sft', *others])} | {' | '.join(f'{arm} over sft' for arm in others)} |",
        f"|{' ---: |' * (3 + 2 * len(others))}",
    ]
    for size in dict.fromkeys(size for arm in ("pmp", "sft") for size in of_arms.get(arm, {}) if size != "votes"):
        values = [of_arms.get(arm, {}).get(size, {}) for arm in ("bag of words", "sft", *others)]
        gains = [difference(value, values[1]) for value in values[2:]]
        lines.append(f"| {size} | {' | '.join([*map(mean, values), *gains])} |")
    votes_of = [f"{arm} {mean(of_arms[arm]['votes'])}" for arm in others]
    simple = [f"{arm} {mean(found['0'])}" for arm, found in of_arms.items() if arm not in arms and "0" in found]
    return "\n".join([*lines, "", f"On held-out votes: {', '.join(votes_of)}. Without training: {', '.join(simple)}.", ""])


def all_arms(seeds: dict[int, dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(arm for found in seeds.values() for arm in found["arms"]))


def by_size(found: dict[int, dict[str, float]]) -> dict[str, dict[int, float]]:
    """Size -> seed -> accuracy."""
    sizes = dict.fromkeys(size for values in found.values() for size in values)
    return {size: {seed: values[size] for seed, values in found.items() if size in values} for size in sizes}


def mean(values: dict[int, float]) -> str:
    """Mean and standard error over seeds."""
    summary = summarize(list(values.values()))
    if summary["mean"] is None:
        return ""
    error = summary["standard_error"]
    return f"{summary['mean']:.3f}" + (f" ± {error:.3f}" if error is not None else "")


def difference(first: dict[int, float], second: dict[int, float]) -> str:
    """The mean difference with its interval, and in how many seeds it is above 0."""
    found = paired(first, second)
    if found is None or found.low is None:
        return "" if found is None else f"{found.mean:+.3f}"
    return f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("world", "stackexchange"))
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--site", choices=SITES, default="music_meta")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "loop-pmp")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")  # those of third parties
    quiet()
    folder = options.folder / (options.task if options.task == "world" else options.site)
    folder.mkdir(parents=True, exist_ok=True)
    check_settings(folder, options.settings)
    for seed in options.seeds:
        is_world = options.task == "world"
        task = world(seed, folder, options.settings) if is_world else stack_exchange(seed, options.site, options.settings)
        Seed(task, folder, options.settings).measure(options.arms, options.sizes)
        (folder / "table.md").write_text(table(folder, options.arms), encoding="utf-8")
    print(table(folder, options.arms))


if __name__ == "__main__":
    main()
