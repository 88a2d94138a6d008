"""The page must start at once, on a machine that has no GPU and while a run holds one."""

import subprocess
import sys


def test_the_page_never_imports_torch_nor_ray():
    """import-linter cannot see this: importing `rewards.labelers.raters` also runs `rewards/labelers/__init__.py`."""
    code = (
        "import sys, loop.labeling.serving, loop.labeling.transfer, loop.commands.label;"
        "print([name for name in ('torch', 'transformers', 'datasets', 'sklearn', 'ray') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
