"""A language model that compares two answers (`labeler.kind: judge`, section `judge`), over HTTP (endpoint.py).

Each pair is asked in both orders, because such judges prefer one place (arXiv 2306.05685, section 3.4). Where both replies name the same
completion, it wins. In all other cases the pair is a tie. A pair that gets no clear reply in one of its orders is left out, under its
reason.
"""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from configs.cache import cache_folder
from configs.endpoints import JudgeConfig
from configs.errors import UserError
from policies import parallel
from rewards.comparisons import Prompt, Sample
from rewards.labelers.endpoint import Endpoint, Refused, ReplyCache
from rewards.labelers.labels import LabelTask
from rewards.labelers.pairs import Judge, Verdict
from rewards.labelers.picking import Pair

SHARD = 16
"""Pairs that one worker takes at once."""
UNCLEAR = "no clear reply of the judge"
REFUSED = "refused by the judge's endpoint"
FEWEST = 4
"""How many prompts at least are asked about at once where a refusal of all of them ends the run. Fewer may be refused for what they say."""
CUT_OFF = " [cut off here]"
"""Stands behind a completion that the policy did not end itself."""
CHOICE = re.compile(r"""[\s"'`*(\[]*(A|B|tie)[\s"'`*)\].]*""", re.IGNORECASE)
"""A whole reply. Nothing but the word, quotes, brackets and a full stop: a longer reply may mean anything."""
_THAI, _LATIN = re.compile("[\u0e00-\u0e7f]"), re.compile("[A-Za-z]")

Said = dict[str, Any]
"""What the judge said of one pair, as plain data: `verdict` is "first", "second", "tie", or None with the reason in `why`."""


def judge(task: LabelTask) -> Judge:
    """The judge of this run. All workers share the pairs."""
    config = task.judge

    def ask(pairs: Sequence[Pair]) -> Sequence[Verdict]:
        with Endpoint(config, ReplyCache(Path(config.cache).expanduser() if config.cache else cache_folder() / "judge")) as endpoint:
            said = task.checkpoints.in_shards(
                f"replies{task.part}",
                pairs,
                SHARD,
                lambda shard: compare_pairs(endpoint, shard),
                lambda done, _: task.report(done, len(pairs)),
            )
        return [Verdict(_PROBABILITY[one["verdict"]], config.model, one["at"], "both", one["why"], _usage(one, config)) for one in said]

    return ask


_PROBABILITY = {"first": 1.0, "second": 0.0, "tie": None, None: None}


def compare_pairs(endpoint: Endpoint[JudgeConfig], pairs: Sequence[Pair]) -> list[Said]:
    """Ask about each pair in both orders, several requests at a time. Raises UserError if the endpoint refuses all of at least FEWEST
    prompts."""
    orders = [(one, other) for pair in pairs for one, other in ((pair.first, pair.second), (pair.second, pair.first))]
    threads = max(1, endpoint.config.concurrency // parallel.world_size())
    with ThreadPoolExecutor(threads) as pool, endpoint.giving_up_together():
        tasks = [pool.submit(_ask, endpoint, a, b) for a, b in orders]
        try:
            replies = [task.result() for task in tasks]
        finally:
            for task in tasks:
                task.cancel()
    if all(reply["refused"] for reply in replies) and len({pair.prompt_id for pair in pairs}) >= FEWEST:
        to_do = "check judge.model, judge.max_reply_tokens, judge.token_limit and the length of your prompts"
        raise UserError(f"the judge's endpoint refuses every request: {replies[0]['refused']}", endpoint.config.url, to_do)
    return [_join(*two) for two in zip(replies[::2], replies[1::2], strict=True)]


def render(config: JudgeConfig, prompt: Prompt, a: Sample, b: Sample) -> str:
    """What the judge is asked about two completions of a prompt."""
    conversation = prompt if isinstance(prompt, str) else "\n\n".join(f"{m['role']}: {m['content']}" for m in prompt)
    template = config.template_thai if len(_THAI.findall(conversation)) > len(_LATIN.findall(conversation)) else config.template
    texts = {"{prompt}": conversation} | {name: s.completion + CUT_OFF * (not s.finished) for name, s in (("{a}", a), ("{b}", b))}
    return re.sub(r"\{(?:prompt|a|b)\}", lambda found: texts[found[0]], template)  # in one pass, because texts may hold the names


def parse(text: str | None) -> str | None:
    """The choice in a reply: "A", "B" or "tie"; None if it is no clear one."""
    found = CHOICE.fullmatch(text) if text else None
    if not found:
        return None
    return "tie" if len(found[1]) == 3 else found[1].upper()


def _ask(endpoint: Endpoint[JudgeConfig], a: Sample, b: Sample) -> dict[str, Any]:
    """The choice between two completions in one order, and what it cost."""
    text = render(endpoint.config, a.prompt, a, b)
    spent: dict[str, Any] = {"replies": 0, "input": 0, "output": 0, "at": ""}
    for attempt in range(endpoint.config.ask_again + 1):
        try:
            reply = endpoint.ask(text, attempt)
        except Refused as refused:
            return {"choice": None, "refused": str(refused), **spent}
        spent = {
            "replies": spent["replies"] + 1,
            "input": spent["input"] + reply.input_tokens,
            "output": spent["output"] + reply.output_tokens,
            "at": reply.at,
        }
        if choice := parse(reply.text):
            return {"choice": choice, "refused": "", **spent}
    return {"choice": None, "refused": "", **spent}


def _join(one: dict[str, Any], other: dict[str, Any]) -> Said:
    """The verdict of both orders. In the second one, A is the second completion."""
    spent = {name: one[name] + other[name] for name in ("replies", "input", "output")} | {"at": max(one["at"], other["at"])}
    if not (one["choice"] and other["choice"]):
        why = REFUSED if one["refused"] or other["refused"] else UNCLEAR
        return {"verdict": None, "why": why, **spent}
    verdict = {("A", "B"): "first", ("B", "A"): "second"}.get((one["choice"], other["choice"]), "tie")
    return {"verdict": verdict, "why": "", **spent}


def _usage(said: Said, config: JudgeConfig) -> dict[str, float]:
    """What one pair cost, by name of the metric."""
    cost = (said["input"] * config.price_input + said["output"] * config.price_output) / 1e6
    return {"judge_replies": said["replies"], "judge_input": said["input"], "judge_output": said["output"], "judge_cost": cost}
