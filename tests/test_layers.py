"""Imports point down: one ordered list of rooms, and who may know which library."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "fedapp"

# A room imports rooms of the lines before its own; rooms of one line never import each other.
LAYERS = (
    ("core",),
    ("config", "wire", "aggregation", "models", "benchmarks", "toy", "engines"),
    ("training", "server"),
    ("methods",),
    ("adapters", "records"),
    ("client",),
    ("planning", "reporting"),
    ("site",),
    ("cli",),
    ("api",),
)
# Modules, as paths below fedapp/ or at the project's root, that may import a library.
KNOWN_BY = {
    "flwr": ("wire/", "server/", "engines/", "server_app.py", "client_app.py"),
    "flwr_datasets": ("client/dealing.py",),
    "torch": ("models/", "training/", "adapters/"),
    "transformers": ("models/", "training/", "adapters/"),
    "peft": ("models/", "adapters/"),
    "pyreft": ("adapters/reft/", "adapters/pyreft_classes.py"),
    "pyvene": ("adapters/reft/", "adapters/pyreft_classes.py"),
    "sklearn": ("methods/consensus/clustering.py", "models/embedders.py", "benchmarks/metrics.py"),
    "scipy": ("methods/consensus/clustering.py", "benchmarks/metrics.py", "reporting/comparison/"),
    "statsmodels": ("reporting/comparison/",),
    "altair": ("reporting/page/",),
    "vl_convert": ("reporting/page/",),
    "jinja2": ("reporting/page/",),
    "cryptography": ("site/certificates.py",),
    "starlette": ("site/gate.py",),
    "hydra": ("config/",),
    "omegaconf": ("config/",),
    "optuna": ("cli/sweeps/search.py",),
    "pandas": ("api/",),
    "tensorboard": ("records/trackers/tensorboard.py",),
    "mlflow": ("records/trackers/mlflow.py",),
    "wandb": ("records/trackers/wandb.py",),
}
# What methods may see of Flower's side: the class that their server halves extend.
OF_SERVER = "fedapp.server.strategy"
APPS = {
    "server_app.py": ("core", "config", "server", "records"),
    "client_app.py": ("core", "wire", "client"),
}


def imports(source: str) -> set[str]:
    """Modules that a source imports, lazily too; ``from a import b`` counts as ``a`` and ``a.b``."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room_of(name: str) -> str:
    return name.split(".")[1] if name.startswith("fedapp.") else ""


def level_of(room: str) -> int:
    return next(number for number, rooms in enumerate(LAYERS) if room in rooms)


def upward(path: str, source: str) -> list[str]:
    """What a module below ``fedapp/`` imports and may not."""
    room = path.split("/")[0]
    known = {one for rooms in LAYERS for one in rooms}
    below = {one for rooms in LAYERS[: level_of(room)] for one in rooms}
    found = []
    for name in sorted(imports(source)):
        other = room_of(name)
        if other in known and other not in below | {room}:
            found.append(name)
        elif room == "methods" and other == "server" and name != "fedapp.server":
            found += [] if f"{name}.".startswith(f"{OF_SERVER}.") else [name]
    return found


def strange(path: str, source: str) -> list[str]:
    """Libraries that a module imports and may not."""
    used = {name.split(".")[0] for name in imports(source)}
    return sorted(lib for lib in used & set(KNOWN_BY) if not path.startswith(KNOWN_BY[lib]))


MODULES = {
    str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))
}
"""Sources by path below ``fedapp/``."""
ROOMS = [path for path in MODULES if "/" in path]


def test_a_room_imports_rooms_below_it_and_the_libraries_it_may_know():
    assert {path: names for path in ROOMS if (names := upward(path, MODULES[path]))} == {}
    assert {path: names for path in ROOMS if (names := strange(path, MODULES[path]))} == {}


@pytest.mark.parametrize("name", APPS)
def test_the_apps_import_the_few_rooms_they_join(name):
    source = (ROOT / name).read_text(encoding="utf-8")
    assert {room_of(one) for one in imports(source)} - {""} <= set(APPS[name])
    assert strange(name, source) == []


@pytest.mark.parametrize(
    ("path", "line", "found"),
    [
        ("aggregation/rules.py", "from fedapp.methods.fedalt import RestOfWorld", ["fedapp.methods.fedalt"]),
        ("core/types.py", "def f():\n    import fedapp.config.build.build", ["fedapp.config.build.build"]),
        (
            "models/base.py",
            "from fedapp.benchmarks import own",
            ["fedapp.benchmarks", "fedapp.benchmarks.own"],
        ),
        ("methods/mixing.py", "from fedapp.server import replies", ["fedapp.server.replies"]),
        ("methods/mixing.py", "from fedapp.server.strategy import ServerStrategy", []),
    ],
)
def test_a_planted_upward_import_is_found_lazy_ones_too(path, line, found):
    planted = upward(path, f"{MODULES[path]}\n{line}\n")
    assert [name for name in planted if name in found] == found
    assert bool(planted) == bool(found)


def test_a_planted_library_is_found():
    assert strange("methods/mixing.py", "def f():\n    import torch.nn") == ["torch"]
    assert strange("training/trainer.py", "import torch") == []


def test_every_module_is_in_a_room():
    known = {one for rooms in LAYERS for one in rooms}
    folders = {path.split("/")[0] for path in ROOMS}
    assert folders == known
