"""What is in the wheel works in a folder that has packages with the names of ours, in the command and in Ray's workers."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.integration.conftest import PROJECT

pytestmark = pytest.mark.slow
BUILD = "from setuptools.build_meta import build_wheel; print(build_wheel({folder!r}))"
MEET = """
from pathlib import Path
from configs.schema import RuntimeConfig
from loop.executors.fleet import Fleet
fleet = Fleet(RuntimeConfig(threads=1), "meeting", Path("ray.log"))
try:
    fleet.start()
finally:
    fleet.stop()
print("the workers are ready")
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A bare virtual environment with the wheel of this tree. All other packages are those of this environment."""
    folder, source = tmp_path_factory.mktemp("installed"), tmp_path_factory.mktemp("source")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, tracked):
        if name.endswith((".py", ".yaml", ".toml", ".md")) or name == "LICENSE":
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((PROJECT / name).read_bytes())
    done = subprocess.run([sys.executable, "-c", BUILD.format(folder=str(folder))], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    environment = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    (site,) = environment.glob("lib/python*/site-packages")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(site)
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment / "bin" / "python"


@pytest.fixture
def home(tmp_path):
    """A user's folder. Whoever imports one of its packages fails."""
    for name in ("configs", "policies", "rewards"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise ImportError('this is the user\\'s {name}')\n")
    return tmp_path


def typed(python: Path, home: Path, *words: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"LOOP_CACHE": str(home / "cache")}
    done = subprocess.run([str(python), *words], cwd=home, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def test_the_wheel_holds_this_version_with_its_presets(installed, home):
    out = typed(
        installed, home, "-P", "-c", "import loop; from configs.loading import PRESETS; print(loop.__file__, *PRESETS.glob('*.yaml'))"
    )
    assert len(out.split()) >= 6 and all(Path(name).is_relative_to(installed.parents[1]) for name in out.split())


@pytest.mark.parametrize("start", [["-m", "loop"], ["-P", "-c", "from loop.commands.main import program; program()"]], ids=["-m", "script"])
def test_the_command_works_beside_packages_of_the_same_names(installed, home, start):
    """The script `loop` does not look in the working directory, `python -m` does."""
    assert typed(installed, home, *start, "--version").startswith("loop ")
    assert "ledger" in typed(installed, home, *start, "data", "embedded", "data.num_pairs=20")


def test_rays_workers_find_ours_too(installed, home):
    """Ray puts the working directory in front of the search path of its workers. A worker is ready when it has imported all stages."""
    assert "the workers are ready" in typed(installed, home, "-P", "-c", MEET)
