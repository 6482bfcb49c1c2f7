"""Rules of the house that a program can check: sizes, probes, docstrings, the map, what is imported early."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "fedapp"
FILES = {
    str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8"))
    for path in [*sorted(PACKAGE.rglob("*.py")), ROOT / "server_app.py", ROOT / "client_app.py"]
}
LINES = {path: (ROOT / path).read_text(encoding="utf-8").count("\n") for path in FILES}
MODULES = [path for path in FILES if path.startswith("fedapp/") and not path.endswith("__init__.py")]

# Probes of other people's objects, with the reason; a probe by a computed name is "*".
ALLOWED = {
    ("fedapp/config/run.py", "*"): "reads the class's own fields by name",
    ("fedapp/config/build.py", "*"): "finds the class that a config names",
    ("fedapp/training/tokens.py", "max_position_embeddings"): "not every transformers config has it",
    ("fedapp/engines/local.py", "__file__"): "a module made by hand has none",
    ("fedapp/methods/consensus/client.py", "*"): "reads the class's own fields by name",
    ("fedapp/models/outline.py", "*"): "torch's dtypes by name",
    ("fedapp/models/structure.py", "pooler"): "not every transformers encoder has one",
    ("fedapp/models/base.py", "initializer_range"): "not every transformers config has it",
    ("fedapp/models/base.py", "is_floating_point"): "values of a torch state that are no tensors",
    ("fedapp/models/loading.py", "*"): "torch's dtypes by name",
    ("fedapp/models/loading.py", "support_avx512bf16_for_cpu"): "of some bitsandbytes layers",
    ("fedapp/cli/main.py", "overrides"): "argparse sets what the command has",
    ("fedapp/benchmarks/embedded/classification.py", "*"): "reads the class's own fields by name",
    ("fedapp/benchmarks/embedded/stories.py", "*"): "reads the class's own fields by name",
    ("fedapp/benchmarks/embedded/instructions.py", "*"): "reads the class's own fields by name",
    ("fedapp/benchmarks/instructions.py", "*"): "reads the class's own fields by name",
    ("fedapp/benchmarks/text_classification.py", "*"): "reads the class's own fields by name",
    ("fedapp/client/rows.py", "*"): "reads the class's own fields by name",
    ("fedapp/client/dealing.py", "*"): "a partitioner of flwr_datasets by name",
    ("fedapp/core/train_config.py", "*"): "reads the class's own fields by name",
    ("fedapp/adapters/prompting.py", "max_position_embeddings"): "not every transformers config has it",
}
EARLY = ("torch", "transformers", "datasets", "flwr_datasets", "sklearn")


def probes(tree: ast.AST) -> set[str]:
    """Attributes that getattr and hasattr ask for; ``*`` where the name is computed."""
    return {
        str(node.args[1].value) if isinstance(node.args[1], ast.Constant) else "*"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("getattr", "hasattr")
    }


def functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def public(tree: ast.Module) -> list[ast.FunctionDef]:
    """Functions and methods with a docstring and a public name, of public classes."""
    bodies = [tree.body, *(c.body for c in tree.body if isinstance(c, ast.ClassDef) and c.name[0] != "_")]
    found = [node for body in bodies for node in body if isinstance(node, ast.FunctionDef)]
    return [node for node in found if node.name[0] != "_" and ast.get_docstring(node)]


def silent_raises(tree: ast.Module) -> list[str]:
    """Public functions that raise and do not say so."""

    def raises(node: ast.AST) -> bool:
        if isinstance(node, ast.Try) and node.handlers:  # its own raises are caught there
            node = ast.Module(body=[*node.handlers, *node.orelse, *node.finalbody], type_ignores=[])
        inner = [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.FunctionDef)]
        return any((isinstance(child, ast.Raise) and named(child)) or raises(child) for child in inner)

    def named(node: ast.Raise) -> bool:
        call = node.exc.func if isinstance(node.exc, ast.Call) else None
        return isinstance(call, ast.Name) and call.id not in ("NotImplementedError", "SystemExit")

    return [f.name for f in public(tree) if raises(f) and "Raises:" not in (ast.get_docstring(f) or "")]


def shapeless(tree: ast.Module) -> list[str]:
    """Public functions of a module that take bare arrays or tensors and name no shape.

    A shape in brackets, named arrays of any shape, or a word on the shape; methods are not asked, as
    they inherit what their protocol says, nor functions of ``Arrays``, whose name says what they are.
    """
    found = []
    for node in public(ast.Module([n for n in tree.body if not isinstance(n, ast.ClassDef)], [])):
        args = [*node.args.args, *node.args.kwonlyargs]
        kinds = " ".join(ast.unparse(a) for a in [node.returns, *(one.annotation for one in args)] if a)
        said = ast.get_docstring(node) or ""
        words = ("[", "amed arrays", "array by array", "shape")
        if ("np.ndarray" in kinds or "Tensor" in kinds) and not any(word in said for word in words):
            found.append(node.name)
    return found


def found(check: Callable[[ast.Module], Iterable[str]], paths: Iterable[str] = FILES) -> dict[str, list[str]]:
    """What a check finds, by file; files in which it finds nothing are left out."""
    return {path: names for path in paths if (names := sorted(check(FILES[path])))}


def long_functions(tree: ast.Module) -> list[str]:
    return [one.name for one in functions(tree) if (one.end_lineno or 0) - one.lineno >= 50]


def test_files_and_functions_stay_short():
    assert {path: lines for path, lines in LINES.items() if lines > 300} == {}
    assert found(long_functions) == {}


def test_no_two_test_files_share_a_name():
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert {name: count for name, count in names.items() if count > 1} == {}, "pytest takes one for the other"


def test_folders_hold_at_most_twelve_modules_and_the_root_two():
    sizes = Counter(str(Path(path).parent) for path in MODULES)
    assert {folder: size for folder, size in sizes.items() if size > 12} == {}
    assert len(list(PACKAGE.glob("*.py"))) <= 2


def test_our_own_objects_are_not_probed_for_what_they_can_do():
    probed = {(path, name) for path, names in found(probes).items() for name in names}
    assert probed - set(ALLOWED) == set(), "declare it in the class, or say in ALLOWED whose object it is"


def test_what_may_be_probed_still_is():
    assert {(path, name) for path, name in ALLOWED if name not in probes(FILES[path])} == set()


def test_a_public_function_that_raises_says_so():
    assert found(silent_raises, MODULES) == {}


def test_a_public_function_on_arrays_says_their_shapes():
    assert found(shapeless, MODULES) == {}


def test_the_map_names_every_module_by_its_room():
    lines = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").splitlines()
    named = {(line.split()[0], name) for line in lines if line.strip() for name in line.split()[1:]}
    inner = [Path(path).relative_to("fedapp") for path in MODULES if path.count("/") > 1]
    assert {(f"{path.parent}/", path.stem) for path in inner} - named == set()


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("import client_app", (*EARLY, "hydra", "yaml", "fedapp.config", "fedapp.client.workplace")),
        ("import server_app", EARLY),
        ("from fedapp.cli.main import main; main(['list'])", EARLY),
        ("from fedapp.cli.main import main; main(['compare', '/nowhere'])", EARLY),
    ],
)
def test_heavy_libraries_wait_until_they_are_needed(code, unwanted):
    said = (
        f"import sys; {code}; print(*[name for name in {unwanted!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", said], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1].strip() == ""


def test_a_planted_fault_of_each_kind_is_found():
    body = "\n".join(["  x = 1"] * 50)
    assert long_functions(ast.parse(f"def f():\n{body}")) == ["f"]
    assert probes(ast.parse("getattr(model, 'encode', None); hasattr(model, name)")) == {"encode", "*"}
    assert silent_raises(ast.parse("def f():\n  'Do.'\n  if x:\n    raise ValueError('no')")) == ["f"]
    assert silent_raises(ast.parse("def f():\n  '''Do.\n\n  Raises: so.'''\n  raise ValueError('')")) == []
    assert shapeless(ast.parse("def f(x: np.ndarray):\n  'Double.'")) == ["f"]
    assert shapeless(ast.parse("def f(x: np.ndarray):\n  'Double x, [rows].'")) == []
