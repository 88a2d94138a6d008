"""A run resumes only with what it was made from: `run` and `verify` name what is damaged, and their advice leads to a whole run."""

import json
import random
import shutil

import pytest

from tests.conftest import make_causal_lm
from tests.integration.conftest import IN_PROCESS, SMALL, Workspace

pytestmark = pytest.mark.slow


def save_model(folder, seed):
    for part in make_causal_lm(seed):
        part.save_pretrained(folder)


def write_pairs(path):
    """Enough rows for every part of the split. What they say does not matter."""
    rng, words = random.Random(0), ["mango", "tree", "sea", "yellow", "old", "fruit"]
    texts = [(" ".join(rng.sample(words, 3)), " ".join(rng.sample(words, 2))) for _ in range(120)]
    rows = [{"prompt": f"say {i}", "chosen": chosen, "rejected": rejected} for i, (chosen, rejected) in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_weights_of_a_local_base_swapped_between_two_rounds(tmp_path, workspace):
    """`run` and `verify` name the file, whatever is deleted. With the old weights back, both rounds equal those of an undisturbed run."""
    there, model = Workspace(tmp_path, workspace.cache), tmp_path / "model"
    save_model(model, 0)
    write_pairs(tmp_path / "pairs.jsonl")
    small = [word for word in SMALL if not word.startswith(("base.", "data."))]
    words = [IN_PROCESS, *small, "base=model", "data=pairs.jsonl", "data.labeler_fraction=0.5", "labeler.kind=reward-model"]
    there.loop("run", "--name", "whole", "--rounds", "2", *words)
    there.loop("run", "--name", "mine", "--rounds", "1", *words)
    assert "nothing damaged" in there.loop("verify", "mine")[0]
    before = there.digests("mine")

    weights = (model / "model.safetensors").read_bytes()
    save_model(model, 1)
    for name in ("mine", "whole"):
        out, err = there.loop("run", "--name", name, "--rounds", "2", exit_code=2)
        assert "model.safetensors: was changed" in err and "restore the files" in err
        assert "setup/" not in out and "round-" not in out  # before anything is started
        assert "model.safetensors: was changed" in there.loop("verify", name, exit_code=2)[1]
    shutil.rmtree(tmp_path / "runs" / "mine" / "setup" / "base")  # without the record of what it was, the journal still knows its digest
    _, err = there.loop("run", "--name", "mine", "--rounds", "2", exit_code=2)
    assert "not the one that the run started with" in err and "restore the files" in err

    (model / "model.safetensors").write_bytes(weights)
    there.loop("run", "--name", "mine", "--rounds", "2")
    assert "nothing damaged" in there.loop("verify", "mine")[0] and "nothing damaged" in there.loop("verify", "whole")[0]
    after = there.digests("mine")
    assert {name: after[name] for name in before} == before and after == there.digests("whole")


def test_one_bit_of_the_kept_base_flipped(two_rounds, tmp_path):
    """The next run names the file, makes the base again, and equals the runs before."""
    shutil.copytree(two_rounds.cache, tmp_path / "cache")
    there = Workspace(tmp_path, tmp_path / "cache")
    content = bytearray((two_rounds.folder / "runs/whole/setup/base/model.safetensors").read_bytes())
    weights = next(path for path in (tmp_path / "cache").glob("base-*/model.safetensors") if path.read_bytes() == content)
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    out, _ = there.small("next", "--rounds", "1")
    assert "the cached base is damaged and is made again" in out and str(weights) in out
    whole, found = two_rounds.digests("whole"), there.digests("next")
    assert found == {name: whole[name] for name in found}
    assert "nothing damaged" in there.loop("verify", "next")[0]
    assert weights.read_bytes() != bytes(content)


def test_a_metric_of_a_manifest_edited(two_rounds, tmp_path):
    shutil.copytree(two_rounds.folder / "runs" / "whole", tmp_path / "runs" / "whole")
    there = Workspace(tmp_path, two_rounds.cache)
    before, stage = there.digests("whole"), tmp_path / "runs" / "whole" / "round-001" / "sample"
    values = json.loads((stage / "manifest.json").read_text())
    values["metrics"]["samples"] += 1
    (stage / "manifest.json").write_text(json.dumps(values, indent=2) + "\n")
    assert "round-001/sample/manifest.json: is not what was committed" in there.loop("verify", "whole", exit_code=2)[1]
    _, err = there.small("whole", exit_code=2)
    assert "round-001/sample/manifest.json: is not what was committed" in err and "delete that directory" in err
    shutil.rmtree(stage)
    out, _ = there.small("whole")
    assert "round-001/sample" in out and "round-001/label" not in out  # the same bytes again, so no later stage is made again
    assert "nothing damaged" in there.loop("verify", "whole")[0] and there.digests("whole") == before
