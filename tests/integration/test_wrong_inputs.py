"""Wrong inputs, as a user would type them: exit code 2, and one message that says what is wrong, where, and what to do.

Whatever can be known before Ray starts is refused before it starts: no run directory is made, and nothing goes to standard output.
Unit tests cover the finer cases (`test_loading.py`, `test_sources.py`, `test_base_folder.py`, `test_cli.py`).
"""

import json
import subprocess
import sys

import pytest

from loop.commands.main import main
from tests.integration.conftest import IN_PROCESS, SMALL, Workspace

PAIR = {"prompt": "q", "chosen": "a", "rejected": "b"}
OWN_DATA = ("labeler.kind=preferences-file", "labeler.path=labels.jsonl")

BEFORE_RAY = {
    # words: (what, where)
    "": ("arguments are required: COMMAND", "the command line"),
    "rnu": ("invalid choice: 'rnu' (choose from 'run', 'resume', 'status'", "the command line"),
    "run --zzz": ("no command takes this: --zzz", "the command line"),
    "run --rounds x": ("must be a whole number of at least 1, not 'x'", "the command line"),
    "run --rounds 0": ("must be a whole number of at least 1, not '0'", "the command line"),
    "run ppo.num_updates": ("'ppo.num_updates' is not a KEY=VALUE setting", "the command line"),
    "run ppo.lr=1e-4": ("did you mean 'ppo.learning_rate'?", "the command line: ppo.lr=1e-4"),
    "run ppo.num_update=3": ("did you mean 'ppo.num_updates'?", "the command line: ppo.num_update=3"),
    "run ppo.num_updates=ten": ("must be a whole number, not 'ten'", "the command line: ppo.num_updates=ten"),
    "run seed=-1": ("seed must be at least 0, not -1", "the command line: seed=-1"),
    "run base.dtype=fp16": ("base.dtype=fp16 cannot be trained in", "the command line: base.dtype=fp16"),
    "run --config value.yaml": ("ppo.gamma must be at most 1, not 2", "value.yaml, line 3"),
    "run --config twice.yaml": ("the setting ppo.gamma is given twice", "twice.yaml, line 4 and line 2"),
    "run --config broken.yaml": ("not valid YAML", "broken.yaml, line 2"),
    "run --config latin.yaml": ("not UTF-8 text", "latin.yaml"),
    "run --config list.yaml": ("must be a mapping", "list.yaml"),
    "run --config none.yaml": ("the config file does not exist", "--config none.yaml"),
    "run --config folder": ("the config file is a folder", "--config folder"),
    "run --config hh-harmles": ("did you mean the preset 'hh-harmless'?", "--config hh-harmles"),
    "run --config thai": ("the data file does not exist: data/thai-pairs.jsonl", "configs/thai.yaml, line 10"),
    "run --name a/b": ("'a/b' is not a valid run name", "--name"),
    f"run --name {101 * 'x'}": ("is not a valid run name", "--name"),
    "run --runs notes.txt": ("notes.txt is a file, not a folder", "--runs notes.txt"),
    "run runtime.workers=3": ("not divisible by 6", "the command line: runtime.workers=3"),
    "run generation.max_new_tokens=99": ("allows completions of only 64 tokens", "the command line: generation.max_new_tokens=99"),
    "run labeler.kind=preferences-file": ("needs labeler.path", "the command line: labeler.kind=preferences-file"),
    "run labeler.kind=preferences-file labeler.path=folder": ("labeler.path is a folder", "the command line: labeler.path=folder"),
    "run labeler.kind=golden": (
        "must be 'gold', 'preferences-file', 'reward-model', 'judge', 'rules' or 'mixture' or",
        "the command line: labeler.kind=golden",
    ),
    "run labeler.kind=judge.py:judge": ("the file judge.py does not exist", "the command line: labeler.kind=judge.py:judge"),
    "run data=pairs-1.jsonl labeler.kind=reward-model labeler.model=bert": (
        "gives no scores (BertForMaskedLM)",
        "the command line: labeler.model=bert",
    ),
    "run data=rows.py:pairs": ("the file rows.py does not exist", "the command line: data=rows.py:pairs"),
    "run data=missing.jsonl": ("the data file does not exist: missing.jsonl", "the command line: data=missing.jsonl"),
    "run data=folder": ("the data is a folder: folder", "the command line: data=folder"),
    "run data=saved": ("labeler.kind=gold works with the embedded world only", "the command line: data=saved"),
    "run data=pears-*.jsonl": ("no file matches the pattern pears-*.jsonl", "the command line: data=pears-*.jsonl"),
    'run data.sources=[{"path":missing.jsonl}]': ("the data file does not exist: missing.jsonl", "data.sources="),
    'run data.sources=[{"path":pairs-1.jsonl,"wieght":2}]': ("did you mean 'data.sources.weight'?", "data.sources="),
    'run data.sources=[{"path":pairs-1.jsonl,"format":trl}]': ("data.sources.format, item 1, must be", "data.sources="),
    'run data=pairs-1.jsonl data.sources=[{"path":"mine.py:rows"}]': ("the file mine.py does not exist", "data.sources="),
    "run data=notes.txt": ("unknown kind of data file", "the command line: data=notes.txt"),
    "run data=empty.jsonl": ("the data set is empty", "the command line: data=empty.jsonl"),
    "run data=pairs-1.jsonl": ("labeler.kind=gold works with the embedded world only", "the command line: data=pairs-1.jsonl"),
    "run base=./none": ("the base's folder does not exist", "the command line: base=./none"),
    "run base=notes.txt": ("the base is a file", "the command line: base=notes.txt"),
    "run base=folder": ("there is no config.json", "the command line: base=folder"),
    "run base=bert": ("not a causal language model (BertForMaskedLM)", "the command line: base=bert"),
    "run base=mute": ("there is no tokenizer in the base's folder", "the command line: base=mute"),
    "run base=endless": ("the base's tokenizer has no end token", "the command line: base=endless"),
    "run base=short": ("short reads at most 100 tokens, and a prompt with its completion may have 128", "data.max_prompt_tokens=64"),
    "run data.max_prompt_tokens=1000": ("the embedded base reads at most 1024 tokens", "data.max_prompt_tokens=1000"),
    "run --name nobody --fork somebody": ("there is no run 'nobody'", "runs"),
    "resume": ("there is no run yet", "runs"),
    "status nobody": ("there is no run 'nobody'", "runs"),
}


@pytest.fixture(scope="module")
def here(tmp_path_factory, workspace):
    """A folder with the files that the words above name. Bases are config, tokenizer settings and empty weights: nothing loads them."""
    folder = tmp_path_factory.mktemp("wrong")
    files = {
        "value.yaml": "ppo:\n  num_updates: 3\n  gamma: 2\n",
        "twice.yaml": "ppo:\n  gamma: 1\n  num_updates: 3\n  gamma: 0.9\n",
        "broken.yaml": "ppo: {\n",
        "list.yaml": "- 1\n",
        "notes.txt": "some text",
        "empty.jsonl": "",
        "pairs-1.jsonl": json.dumps(PAIR),
        "folder/pairs.jsonl": json.dumps(PAIR),
        "saved/dataset_info.json": "{}",
    }
    for name, architecture, tokenizer in (
        ("bert", "BertForMaskedLM", {"eos_token": "<end>"}),
        ("mute", "LlamaForCausalLM", None),
        ("endless", "LlamaForCausalLM", {"tokenizer_class": "TokenizersBackend"}),
        ("short", "LlamaForCausalLM", {"eos_token": "<end>"}),
    ):
        files |= {f"{name}/config.json": json.dumps({"architectures": [architecture], "max_position_embeddings": 100})}
        files |= {f"{name}/model.safetensors": ""}
        if tokenizer is not None:
            files |= {f"{name}/tokenizer.json": "{}", f"{name}/tokenizer_config.json": json.dumps(tokenizer)}
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (folder / "latin.yaml").write_bytes("name: café\n".encode("latin-1"))
    return Workspace(folder, workspace.cache)


def check(out, err, what, where):
    """There is one message, it has three parts, and nothing else is printed."""
    first, *rest = err.strip().split("\n  where: ")
    assert first.startswith("error: ") and what in first, err
    assert len(rest) == 1 and where in rest[0] and rest[0].count("\n  to do: ") == 1, err
    assert "Ray dashboard" not in out


@pytest.mark.parametrize("words", BEFORE_RAY)
def test_what_can_be_known_is_refused_before_ray_starts(here, words, monkeypatch, capsys):
    what, where = BEFORE_RAY[words]
    monkeypatch.chdir(here.folder)
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    assert not out
    check(out, err, what, where)
    assert not (here.folder / "runs").exists()  # no run has begun


def test_a_refusal_is_the_exit_code_of_the_process(here):
    """The cases above call the command in this process. This one types it."""
    words = "run ppo.lr=1e-4"
    out, err = here.loop(*words.split(), exit_code=2)
    check(out, err, *BEFORE_RAY[words])


def test_the_table_is_as_long_as_was_promised():
    assert len(BEFORE_RAY) >= 25


def test_the_driver_never_imports_torch_nor_ray(here):
    code = "import sys, loop.commands.main; sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'ray')))"
    assert subprocess.run([sys.executable, "-c", code], env=here.environment, cwd=here.folder).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "settings", "what"),
    [
        ([{"question": "a", "answer": "b"}], (), "no usable preference pair: pairs holds prompts only"),
        ([{"said": "a"}], (), "the format of the data cannot be told by its columns (it has said)"),
        ([PAIR | {"rejected": ""}], ("data.bad_rows=refuse",), "rejected is empty"),
        ([PAIR] * 3, ("data.heldout_fraction=0.5",), "too few pairs"),  # all of one prompt, so all on one side
    ],
)
def test_what_only_the_rows_tell(here, tmp_path, rows, settings, what):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = (IN_PROCESS, f"data={path}", *OWN_DATA, *settings)
    _, err = here.loop("run", "--name", "wrong", "--runs", str(tmp_path), *words, exit_code=2)
    assert what in err and "where:" in err and "to do:" in err


@pytest.mark.slow
@pytest.mark.parametrize("word", ["base=nobody/has-this-model", "data=nobody/has-these-pairs"])
def test_a_hub_that_cannot_be_reached(here, tmp_path, word):
    """Forked processes run with HF_HUB_OFFLINE=1 (see `forked.py`)."""
    settings = OWN_DATA if word.startswith("data") else ()
    _, err = here.loop("run", "--name", "far", "--runs", str(tmp_path), IN_PROCESS, word, *settings, exit_code=2)
    assert "the hub cannot be reached" in err and "nobody/has-th" in err and "to do:" in err


@pytest.mark.slow
def test_nothing_is_short_enough(here, tmp_path):
    """Every prompt has more than one token, so none is left, neither for training nor held out."""
    _, err = here.loop("run", "--name", "long", "--runs", str(tmp_path), IN_PROCESS, *SMALL, "data.max_prompt_tokens=1", exit_code=2)
    assert "short enough" in err and "raise data.max_prompt_tokens" in err
