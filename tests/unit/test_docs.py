"""The documents are true where a program can check it: links, commands, names, and the page that is generated from the settings."""

import re
import shlex
from contextlib import nullcontext
from pathlib import Path

import pytest

from configs.fields import Section
from configs.loading import PRESETS, read_given
from configs.schema import RunConfig
from docs import generate
from loop.commands.main import COMMANDS, main, make_parser
from loop.experiments.plan import ExperimentFile, read_experiment
from loop.round import STAGES
from tests.unit.loop.fake_executor import FakeExecutor

PROJECT = Path(__file__).parents[2]
PAGES = [*sorted(PROJECT.glob("*.md")), *sorted((PROJECT / "docs").glob("*.md"))]
TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}
PACKAGES = ("configs", "loop", "policies", "rewards")
FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUNNABLE = re.compile(r"^<!-- runnable -->\n(```console\n.*?^```)$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"^<!-- file: (\S+) -->\n```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def anchor(heading: str) -> str:
    """The name that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def commands(text: str) -> list[list[str]]:
    """The words of each command in the console blocks of a page."""
    lines = "".join(CONSOLE.findall(text)).replace("\\\n", " ").splitlines()
    return [shlex.split(line.removeprefix("$ "), comments=True) for line in lines if line.startswith("$ ")]


@each_page
def test_every_link_leads_somewhere(page):
    for target in LINK.findall(FENCE.sub("", TEXTS[page])):
        if target.startswith("https://"):
            continue
        path, _, name = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        if name:
            assert name in map(anchor, HEADING.findall(FENCE.sub("", TEXTS[found]))), target


@each_page
def test_every_file_and_test_that_is_named_exists(page):
    """Also files named without a link, as `loop/round.py`, and tests, as `test_it_works`."""
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (PROJECT / "tests").rglob("*.py"))
    for name in re.findall(rf"`((?:{'|'.join((*PACKAGES, 'tests', 'docs'))})/[\w/.-]*)`", TEXTS[page]):
        assert (PROJECT / name).exists(), name
    for name in re.findall(r"`(test_\w+)`", TEXTS[page]):
        assert f"def {name}(" in tests, name


@each_page
def test_every_command_can_be_typed(page):
    """Make targets and modules exist, and `loop` accepts the options and the settings."""
    targets = re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for program, *words in commands(TEXTS[page]):
        if program == "make":
            assert set(words) <= set(targets)
        elif program == "loop":
            check_words(words)
        else:
            assert program in ("git", "chromium"), program
    for module in re.findall(r"python -m ((?:tests|docs)\.[\w.]+)", TEXTS[page]):
        assert (PROJECT / f"{module.replace('.', '/')}.py").exists(), module


@pytest.mark.parametrize("page", [page for page in PAGES if RUNNABLE.search(TEXTS[page])], ids=lambda page: page.name)
def test_every_runnable_command_runs(page, tmp_path, monkeypatch):
    """Runs the commands of a page in order, beside its files and a finished run of the embedded default. The stages compute nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOOP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("loop.commands.run.executor_for", lambda config, folder: nullcontext(FakeExecutor()))
    for name, content in FILE.findall(TEXTS[page]):
        (tmp_path / name).write_text(content, encoding="utf-8")
    assert main(["run"]) == 0
    for block in RUNNABLE.findall(TEXTS[page]):
        for program, *words in commands(f"{block}\n"):
            assert program == "loop"
            try:
                assert main(words) == 0, words
            except SystemExit as finished:  # argparse, after --help
                assert finished.code == 0, words


def test_the_experiment_of_the_documents_can_be_read(tmp_path):
    ((name, content),) = FILE.findall(TEXTS[PROJECT / "docs" / "experiments.md"])
    (tmp_path / name).write_text(content, encoding="utf-8")
    found = read_experiment(str(tmp_path / name))
    keys = re.findall(r"^\| `(\w+)` \|", TEXTS[PROJECT / "docs" / "experiments.md"], re.MULTILINE)
    assert set(keys) == set(ExperimentFile.model_fields) and len(found.arms) == 3


def check_words(words: list[str]) -> None:
    """Raises where `loop` would refuse the words of a command."""
    if "--help" in words:
        return
    options = make_parser().parse_args(words)
    if "config" in options:
        read_given(options.config, options.settings, name=options.name, num_rounds=options.rounds).resolve()


def test_every_command_preset_and_stage_is_named():
    quickstart, readme = TEXTS[PROJECT / "docs" / "quickstart.md"], TEXTS[PROJECT / "README.md"]
    for command in COMMANDS:
        assert f"$ loop {command}" in quickstart, command
    for preset in PRESETS.glob("*.yaml"):
        assert f"| `{preset.stem}` |" in readme, preset
    for stage in STAGES:
        assert f"| `{stage.name}` |" in quickstart, stage
        assert f"\n| {stage.name} |" in TEXTS[PROJECT / "ARCHITECTURE.md"], stage


def test_every_room_is_in_the_architecture():
    rooms = {path.parent for package in PACKAGES for path in (PROJECT / package).rglob("*.py")}
    text = TEXTS[PROJECT / "ARCHITECTURE.md"]
    for room in rooms:
        name = f"{room.relative_to(PROJECT)}/"
        assert f"`{name}`" in text or f"`{room.name}/`" in text, name


def test_the_answers_for_newcomers_name_files_and_what_is_in_them():
    """Each row of the table starts in one file. Every name in its last column is in that file or in another one that the row names."""
    section = TEXTS[PROJECT / "CONTRIBUTING.md"].partition("## Where things are done")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("| ")][2:]
    assert len(rows) >= 6
    for task, file, how in rows:
        files = [file.strip("`"), *re.findall(r"`(\w+/[\w/.-]+\.\w+)`", how)]
        source = "\n".join((PROJECT / name).read_text(encoding="utf-8") for name in files)
        names = [name for name in re.findall(r"`([\w]+)`", how)]
        assert names, task
        for name in names:
            assert re.search(rf"\b{name}\b", source), (task, name)


def test_the_generated_pages_are_current():
    for name, text in generate.pages().items():
        assert (PROJECT / "docs" / name).read_text(encoding="utf-8") == text, "run `python -m docs.generate`"


def sections(section: type[Section]) -> list[type[Section]]:
    """A group of settings and all groups in it."""
    inner = [field.annotation for field in section.model_fields.values()]
    return [section, *(s for kind in inner if isinstance(kind, type) and issubclass(kind, Section) for s in sections(kind))]


@pytest.mark.parametrize("section", sections(RunConfig), ids=lambda section: section.__name__)
def test_every_setting_has_a_description(section):
    texts = generate.descriptions(section)
    for name, field in section.model_fields.items():
        is_group = isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        assert is_group or texts.get(name, "").endswith((".", '"')), name
    assert section.__doc__
