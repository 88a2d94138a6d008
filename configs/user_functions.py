"""User functions: the user's own code, which a config names in place of a built-in choice (`module:function` or `file.py:function`).

    labeler:
      kind: judges/shorter.py:judge       a file, relative to the working directory
    evaluate:
      rules: [my_package.rules:too_long]  a module that Python finds from the working directory or its own search path

What such a function does is part of what a run is. The hash of the file that defines it enters the key of each stage that calls it
(`loop/keys.py`), so a stage whose function was edited is made again. Other files that this file imports are not hashed.

`check` and `find_hash` read the file as text and never run it, so a mistake is found before anything starts. Must never import an
ML library.
"""

import ast
import difflib
import hashlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from configs.errors import UserError

PATTERN = r"^(?:[^:]+\.py|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):[A-Za-z_]\w*$"
"""`file.py:function` or `module:function`."""
OWN_PACKAGES = ("configs", "policies", "rewards", "loop")
"""A user's package of such a name cannot be imported where ours are."""
_IMPORTED: dict[str, str] = {}
"""Modules that were imported for a user's function -> SHA-256 of the file at that time."""


def is_function(name: Any) -> bool:
    """Whether a value of the config names a user function."""
    return isinstance(name, str) and re.match(PATTERN, name) is not None


def check(name: str, where: str = "") -> None:
    """Raises UserError if the file or module is missing, is not Python, or does not define the function.

    where: the place of the setting, for the message.
    """
    path, function = _find(name, where)
    defined = _defined_names(path, where)
    if defined is not None and function not in defined:
        near = difflib.get_close_matches(function, defined, n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        to_do = f"write {name.rpartition(':')[0]}:{near[0]}" if near else f"define it there: def {function}(...)"
        raise UserError(f"{path} has no function {function!r}{hint}", where or name, to_do)


def find_hash(name: str, where: str = "") -> str:
    """SHA-256 of the file that defines the function. Raises UserError as `check` does, but does not look for the function."""
    return hashlib.sha256(_find(name, where)[0].read_bytes()).hexdigest()


def load(name: str) -> Callable[..., Any]:
    """The function, as its file defines it now. Raises UserError as `check` does."""
    check(name)
    path, function = _find(name)
    source = name.rpartition(":")[0]
    module = _run(path) if source.endswith(".py") else _import(source, path)
    found = getattr(module, function, None)
    if not callable(found):
        what = "is not a function" if hasattr(module, function) else "is not defined when the file is run"
        raise UserError(f"{function!r} {what}", str(path), f"define it there: def {function}(...)")
    return found


def _find(name: str, where: str = "") -> tuple[Path, str]:
    """The file that defines the function, and the function's name. Raises UserError if there is no such file or module."""
    source, _, function = name.rpartition(":")
    if source.endswith(".py"):
        path = Path(source).expanduser()
        if not path.is_file():
            near = difflib.get_close_matches(path.name, _python_files(path.parent), n=1)
            hint = f", did you mean {str(path.parent / near[0])!r}?" if near else ""
            raise UserError(f"the file {source} does not exist{hint}", where or name, f"check the path, from {os.getcwd()}")
        return path, function
    _make_importable(Path.cwd())
    try:
        spec = importlib.util.find_spec(source)
    except Exception:  # a package on the way is not there, or fails as it is imported, with whatever error
        spec = None
    if spec is None or spec.origin is None or not os.path.isfile(spec.origin):
        to_do = f"install it, start the command in its folder (this is {os.getcwd()}), or give a file: path/to/file.py:{function}"
        if (package := source.partition(".")[0]) in OWN_PACKAGES:
            to_do = f"{package!r} is a package of loop itself, so give the file of yours: path/to/file.py:{function}"
        raise UserError(f"there is no Python module {source!r}", where or name, to_do)
    return Path(spec.origin), function


def _defined_names(path: Path, where: str) -> list[str] | None:
    """The names that a file defines at its top level; None if that cannot be told without running it."""
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        message = error.msg if isinstance(error, SyntaxError) else str(error)
        raise UserError(f"{path} is not valid Python: {message}", f"{path}{line}", "correct the file") from None
    except OSError as error:
        raise UserError(f"the file cannot be read: {error.strerror}", where or str(path), "check its permissions") from None
    names = [name for node in tree.body for name in _names_of(node)]
    return None if "*" in names or "__getattr__" in names else names


def _names_of(statement: ast.stmt) -> Iterator[str]:
    """The names that one statement at the top level of a file may define."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
        return
    for node in ast.walk(statement):  # assignments, imports, and what is defined in an `if` or `try`
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).partition(".")[0]


def _run(path: Path) -> ModuleType:
    """Run a file as a module. It is registered in `sys.modules`, where dataclasses and pickle look for it."""
    _make_importable(Path.cwd())
    _make_importable(path.absolute().parent)  # where Python itself would look, if it was asked to run this file
    name = "user_file_" + re.sub(r"\W", "_", str(path.absolute()))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)  # never from a cached .pyc, which goes by time and size
    return module


def _import(source: str, path: Path) -> ModuleType:
    """Import a module. It is loaded again if its file was changed since this process imported it."""
    module, now = importlib.import_module(source), hashlib.sha256(path.read_bytes()).hexdigest()
    if _IMPORTED.setdefault(source, now) != now:
        _IMPORTED[source] = now
        return importlib.reload(module)
    return module


def _python_files(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("*.py")] if folder.is_dir() else []


def _make_importable(folder: Path) -> None:
    """Have Python look for modules in a folder too. `python -m` looks in the working directory; workers and the `loop` command do not."""
    importlib.invalidate_caches()
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
