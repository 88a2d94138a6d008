"""Whole runs on folders of other models than the embedded one, in the precisions that people use."""

import json

import pytest

from tests.conftest import make_causal_lm
from tests.integration.conftest import Workspace
from tests.unit.policies.model_forms import tiny_model

pytestmark = pytest.mark.slow
PRECISIONS = {
    "float32": ["base.dtype=float32"],
    "bfloat16": ["base.dtype=bfloat16"],
    "nf4": ["base.dtype=float32", "base.quantization=nf4"],
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("form", ["GPT-2", "Qwen2", "XGLM"])
def test_two_rounds_on_real_pairs(workspace: Workspace, shared_data, tmp_path, form, precision):
    """A reward model labels. With one minibatch and one epoch, the log has what the first step was made from.

    The policy starts as the reference, so the KL is 0 but for rounding. In bfloat16 the log-probs from sampling and those of the reference
    are rounded differently, by about 1e-2 nats a token. Their difference is noise around 0 (`ppo.recompute_logprobs` would make it 0).
    """
    base = tmp_path / "base"
    tiny_model(form, wider=True).save_pretrained(base)
    make_causal_lm()[1].save_pretrained(base)
    name = f"{form}-{precision}"
    workspace.small(
        name,
        "--rounds",
        "2",
        f"base={base}",
        *PRECISIONS[precision],
        f"data={shared_data / 'hh_harmless' / 'pairs.jsonl.gz'}",
        "data.max_pairs=400",
        "data.labeler_fraction=0.5",
        "data.max_prompt_tokens=192",
        "data.max_completion_tokens=60",
        "labeler.kind=reward-model",
        "ppo.num_epochs=1",
        "ppo.num_minibatches=1",
        "ppo.num_updates=2",
        "sample.num_prompts=12",
        "evaluate.num_prompts=8",
        "evaluate.best_of=0",
    )
    for number in (0, 1):
        log = workspace.folder / "runs" / name / f"round-{number:03d}" / "policy" / "metrics.jsonl"
        first = json.loads(log.read_text().splitlines()[0])
        kl, error = first["objective/kl"], first["objective/kl_standard_error"]
        assert abs(kl) < (max(1e-3, 4 * error) if precision == "bfloat16" else 1e-3)
        assert first["policy/approxkl_avg"] < (1e-2 if precision == "bfloat16" else 1e-4)
        assert first["policy/clipfrac_avg"] == 0
