"""Limits that keep the code readable, and that neither ruff nor import-linter checks."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

PROJECT = Path(__file__).parents[2]
PACKAGES = ("configs", "policies", "rewards", "loop")
MODULES = sorted(path for package in PACKAGES for path in (PROJECT / package).rglob("*.py"))
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60
LONGER: dict[str, str] = {}
"""What may be longer, "loop/driver.py" or "loop/driver.py:execute", and the reason."""


def functions(tree: ast.Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def find_long(source: str, name: str) -> list[str]:
    """The file and its functions that have more lines than they may have."""
    found = [name] if len(source.splitlines()) > MAX_FILE_LINES else []
    for node in functions(ast.parse(source)):
        if node.end_lineno is not None and node.end_lineno - node.lineno >= MAX_FUNCTION_LINES:
            found.append(f"{name}:{node.name}")
    return found


def test_no_file_and_no_function_is_too_long():
    found = [long for path in MODULES for long in find_long(path.read_text(encoding="utf-8"), str(path.relative_to(PROJECT)))]
    assert sorted(found) == sorted(LONGER)  # an exception that is no longer needed is removed


def test_what_is_too_long_is_found():
    """A function of 61 lines (its header and 60 statements), one of 60, and a file of 401 lines."""

    def function(name: str, lines: int) -> str:
        return f"def {name}():\n" + "    pass\n" * (lines - 1)

    assert find_long(function("long", 61) + function("short", 60), "x.py") == ["x.py:long"]
    assert find_long("pass\n" * 401, "x.py") == ["x.py"] and find_long("pass\n" * 400, "x.py") == []


def test_no_modules_import_each_other_in_a_circle():
    """Imports inside functions count too."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    assert {module.split(".")[0] for module in graph.modules} == set(PACKAGES) and len(graph.modules) >= len(MODULES)
    TopologicalSorter({module: graph.find_modules_directly_imported_by(module) for module in graph.modules}).prepare()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_every_module_says_what_it_is_for(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not tree.body or ast.get_docstring(tree)
