"""Rewards that are checked and not learned: the answer to a calculation is right if its number is. Copy this file and change it.

    loop run --name sums data=gsm8k_reward.py:pairs ppo.score=gsm8k_reward.py:score evaluate.gold=gsm8k_reward.py:score \\
        labeler.kind=gsm8k_reward.py:judge data.max_prompt_tokens=384 data.max_completion_tokens=384 generation.max_new_tokens=384

It reads the rows of GSM8K (arXiv 2110.14168; MIT license): one JSON object a line with `question` and `answer`, and the number after "####"
at the end of the answer. The file is `gsm8k.jsonl` (or .jsonl.gz) in the folder that you start `loop` in, or what GSM8K names.
"""

import functools
import gzip
import json
import os
import re
from pathlib import Path

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
INSTRUCTION = "Work it out step by step, and end with #### and the number."


@functools.cache
def rows():
    """The rows of the file."""
    path = Path(os.environ.get("GSM8K", "gsm8k.jsonl"))
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.strip()]


def prompt_of(question):
    """The question as the policy is asked."""
    return [{"role": "user", "content": f"{question}\n{INSTRUCTION}"}]


@functools.cache
def truths():
    """The right number of each question."""
    return {prompt_of(row["question"])[-1]["content"]: final_number(row["answer"]) for row in rows()}


def final_number(text):
    """The number after the last "####"; None if there is none. Commas, a final ".0" and signs of currency make no difference."""
    found = NUMBER.search(text.rpartition("####")[2]) if "####" in text else None
    return float(found.group().replace(",", "")) if found else None


def score(answers):
    """1 for a right number at the end, 0.1 for a wrong one in the right form, 0 otherwise."""
    scores = []
    for answer in answers:
        number = final_number(answer.completion)
        right = truths()[answer.prompt[-1]["content"]]
        scores.append(0.0 if number is None else 1.0 if number == right else 0.1)
    return scores


def judge(pairs):
    """A labeler by the same score. Equal scores are a tie."""
    verdicts = []
    for pair in pairs:
        first, second = score([pair.first, pair.second])
        verdicts.append(None if first == second else float(first > second))
    return verdicts


def pairs():
    """Original pairs: the worked answer against the same one with a wrong number at its end."""
    for row in rows():
        number = final_number(row["answer"])
        wrong = row["answer"].rpartition("####")[0] + f"#### {number + 1:g}"
        prompt = prompt_of(row["question"])
        chosen, rejected = ([{"role": "assistant", "content": text}] for text in (row["answer"], wrong))
        yield {"prompt": prompt, "chosen": chosen, "rejected": rejected, "source": "gsm8k"}
