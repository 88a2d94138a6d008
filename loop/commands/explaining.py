"""What `--help` says beside the commands: presets, the main settings, exit codes. Must never import torch or Ray."""

import textwrap

from configs.loading import PRESETS

EXIT_CODES = {
    0: "done",
    2: "your input is wrong; the message says what, where and how to correct it",
    3: "the run waits for labels",
    4: "a stage failed; the message names the log",
    130: "interrupted; the same command continues",
}
SETTINGS = {
    "base": "the model: embedded, smollm2-135m, a hub id or a folder",
    "data": "the pairs: embedded, a file, a pattern or a hub data set",
    "labeler.kind": "who compares samples: gold, preferences-file, judge, reward-model, rules, mixture",
    "labeler.path": "the file that people write labels into",
    "trainer": "ppo or dpo",
    "lora.rank": "the size of the adapters",
    "generation.temperature": "how answers are sampled",
    "generation.max_new_tokens": "the longest answer in tokens",
    "ppo.num_updates": "PPO updates in each round",
    "ppo.learning_rate": "the step size of PPO",
    "ppo.kl_coefficient": "how strongly the policy is kept near where it started",
    "ppo.score": "what PPO maximizes: features, reward-model, or a function of yours",
    "sample.num_prompts": "how many prompts are answered and labeled in each round",
    "evaluate.num_prompts": "on how many held-out prompts a policy is measured",
    "runtime.workers": "how many workers, one for each GPU",
    "runtime.address": "the Ray cluster to join",
    "seed": "the number that all random numbers are derived from",
}
"""The settings that a user needs first, and what they are."""
WIDTH = 100


def presets() -> dict[str, str]:
    """The name of each preset, and what the first line of its file says."""
    return {path.stem: path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ") for path in sorted(PRESETS.glob("*.yaml"))}


def about_a_run() -> str:
    """Presets and main settings, as the end of a help text."""
    return "\n\n".join(
        [
            _table("presets (--config NAME)", presets()),
            _table("main settings (KEY=VALUE; all of them are in docs/configuration.md)", SETTINGS),
        ]
    )


def about_the_end() -> str:
    """The exit codes, as the end of a help text."""
    return _table("exit codes", {str(code): meaning for code, meaning in EXIT_CODES.items()})


def _table(title: str, rows: dict[str, str]) -> str:
    wide = max(map(len, rows))
    lines = (
        textwrap.fill(text, WIDTH, initial_indent=f"  {name:<{wide}}  ", subsequent_indent=" " * (wide + 4)) for name, text in rows.items()
    )
    return "\n".join([f"{title}:", *lines])
