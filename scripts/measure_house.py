"""Print the sizes that tests/test_guards.py keeps: files, functions, folders, probes.

Run: ``python scripts/measure_house.py``
"""

from __future__ import annotations

import ast
import statistics
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Count and print."""
    paths = [*sorted((ROOT / "fedapp").rglob("*.py")), ROOT / "server_app.py", ROOT / "client_app.py"]
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in paths}
    files = {path: path.read_text(encoding="utf-8").count("\n") for path in paths}
    lengths = {
        f"{path.relative_to(ROOT)}: {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    modules = [path for path in paths if path.name != "__init__.py" and path.parent != ROOT]
    folders = Counter(str(path.parent.relative_to(ROOT)) for path in modules)
    probes = sum(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("getattr", "hasattr")
        for tree in trees.values()
        for node in ast.walk(tree)
    )
    longest_file = max(files, key=lambda path: files[path])
    longest = max(lengths, key=lambda name: lengths[name])
    fullest = max(folders, key=lambda name: folders[name])
    print(f"modules                        {len(modules)} in {len(folders)} folders")
    print(f"modules at the root of fedapp  {len(list((ROOT / 'fedapp').glob('*.py')))}")
    print(f"fullest folder                 {folders[fullest]} ({fullest})")
    print(f"longest file                   {files[longest_file]} lines ({longest_file.relative_to(ROOT)})")
    print(f"longest function               {lengths[longest]} lines ({longest})")
    print(f"median function                {statistics.median(lengths.values()):.0f} lines of {len(lengths)}")
    print(f"getattr and hasattr            {probes}, all of foreign objects or of own fields by name")


if __name__ == "__main__":
    main()
