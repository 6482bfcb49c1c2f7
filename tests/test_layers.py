"""Imports point down: who may import whom."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TORCH = ("torch", "transformers", "peft", "pyreft", "pyvene")
LEARN = ("sklearn", "scipy", "fedapp.clustering", "fedapp.models.embedders")
FORBIDDEN = {
    # Clustering by scikit-learn is fedapp/clustering.py's: the rules themselves need numpy alone.
    "aggregation": (*TORCH, *LEARN, "flwr", "hydra", "omegaconf", "fedapp.methods", "fedapp.adapters"),
    "core": (*TORCH, "flwr", "hydra", "omegaconf"),
    "wire.py": (*TORCH, "hydra", "omegaconf"),
    "methods": (
        *TORCH,
        *LEARN,
        "hydra",
        "omegaconf",
        "fedapp.adapters",
        "fedapp.benchmarks",
        "fedapp.models.base",
    ),
    "adapters": ("flwr", "hydra", "omegaconf", "fedapp.methods", "fedapp.benchmarks"),
    "benchmarks": ("flwr", "hydra", "omegaconf", "fedapp.methods", "fedapp.adapters", *TORCH),
}
ONLY_IN = {"hydra": ("config.py", "sweep.py"), "omegaconf": ("config.py", "sweep.py")}


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize("part", FORBIDDEN)
def test_a_layer_does_not_import_upwards(part):
    root = ROOT / "fedapp" / part
    files = sorted(root.rglob("*.py")) if root.is_dir() else [root]
    assert files
    for path in files:
        bad = [name for name in imports(path) for other in FORBIDDEN[part] if within(name, other)]
        assert not bad, f"{path.name} imports {bad}"


def test_methods_do_not_import_each_other():
    for path in sorted((ROOT / "fedapp" / "methods").glob("*.py")):
        # What methods are made of is no method: base.py and the rules of mixing.py.
        below = ("fedapp.methods.base", "fedapp.methods.mixing")
        others = {n for n in imports(path) if n.startswith("fedapp.methods.")}
        assert not [n for n in others if not any(within(n, part) for part in below)], path.name


@pytest.mark.parametrize("package", ONLY_IN)
def test_hydra_is_known_to_the_config_alone(package):
    for path in [*sorted((ROOT / "fedapp").rglob("*.py")), ROOT / "server_app.py", ROOT / "client_app.py"]:
        if path.name not in ONLY_IN[package]:
            assert not [n for n in imports(path) if within(n, package)], path.name


def test_files_and_functions_stay_short():
    for path in [*sorted((ROOT / "fedapp").rglob("*.py")), ROOT / "server_app.py", ROOT / "client_app.py"]:
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 300, path.name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 50, f"{path.name}: {node.name}"
