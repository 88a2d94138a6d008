"""Where files that several runs share are kept. Must never import an ML library."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """The directory for everything that is cached between runs: `LOOP_CACHE`, or `~/.cache/loop`."""
    return Path(os.environ.get("LOOP_CACHE") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "loop")).expanduser()
