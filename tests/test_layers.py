"""Imports point inwards: read from the syntax tree, of every module there is.

What a type checker alone imports (under ``if TYPE_CHECKING``) binds nothing at run time and may point anywhere.
"""

import ast
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent

LEAVES = {"errors", "timing"}
"""What every room but the kernels may use."""
ALL = {"*"}
MAY_IMPORT = {
    "client": set(),
    "kernels": set(),
    "model": {"client", "kernels"},
    "learn": {"model", "kernels"},
    "history": {"kernels", "client"},
    "checkpoint": {"model", "learn"},
    "pending": {"model", "learn", "kernels"},
    "identities": {"checkpoint", "pending", "model", "client"},
    "shadows": {"kernels"},
    "state": {"checkpoint", "shadows", "pending", "identities", "model", "learn", "kernels", "client"},
    "ports": {"checkpoint"},
    "tick": {"state", "learn"},
    "intake": {"ports", "state", "model", "client"},
    "publishing": {"ports", "pending", "state", "model", "client"},
    "startup": {"ports", "checkpoint", "state", "model"},
    "loop": {"ports", "checkpoint", "state", "model", "learn", "intake", "publishing", "startup", "tick"},
    "evaluation": {"history", "state", "model", "learn", "kernels", "tick", "client"},
    "fitting": {"model", "learn", "kernels"},
    "tuning": set(),
    "plots": set(),
    "backfill": {"ports", "state", "identities", "model", "client"},
    "verification": {"adapters", "checkpoint", "model", "learn", "kernels"},
    "adapters": {"ports", "checkpoint", "model", "learn", "tick", "client"},
    "local": set(),
    "config": {"learn", "client"},
    "wiring": ALL,
    "cli": {
        "wiring",
        "adapters",
        "backfill",
        "kernels",
        "model",
        "loop",
        "evaluation",
        "fitting",
        "tuning",
        "plots",
        "verification",
        "history",
        "config",
        "local",
        "client",
        "tick",
    },
}
"""Room → rooms it may import besides itself and the leaves. A module directly below ``worker/`` is a room of its own."""

ADAPTERS = ("factorstream.worker.adapters", "factorstream.producer", "factorstream.reader")
KERNELS = ("factorstream.worker.kernels",)
ONLY_IN = {
    "kafka": ADAPTERS,
    "redis": ADAPTERS,
    "prometheus_client": ADAPTERS,
    "numba": KERNELS,
    "llvmlite": KERNELS,
    "triton": KERNELS,
    "typer": ("factorstream.worker.cli",),
    "rich": ("factorstream.worker.cli",),
    "matplotlib": ("factorstream.worker.plots",),
    "optuna": ("factorstream.worker.tuning",),
    "pydantic_settings": ("factorstream.worker.config",),
}
HEAVY = ("numba", "torch", "kafka", "redis", "prometheus_client", "pydantic", "structlog")


class Import(NamedTuple):
    importer: str
    imported: str
    line: int
    at_once: bool
    """Whether it runs when the module is imported: it stands outside functions."""

    def __str__(self):
        return f"{self.importer}, line {self.line}, imports {self.imported}"


def modules():
    """Yield every module of the package: name and file. ``factorstream/worker`` is read as ``worker/``, once."""
    client = list((ROOT / "factorstream").glob("*.py"))
    worker = list((ROOT / "worker").rglob("*.py"))
    yield from ((name_of("factorstream", path.relative_to(ROOT / "factorstream")), path) for path in client)
    yield from ((name_of("factorstream.worker", path.relative_to(ROOT / "worker")), path) for path in worker)


def name_of(package, path):
    parts = [package, *path.with_suffix("").parts]
    return ".".join(part for part in parts if part != "__init__")


def imports(name, path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return list(walk(tree, name, package, at_once=True))


def walk(node, name, package, *, at_once):
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return
    if isinstance(node, ast.Import):
        yield from (Import(name, alias.name, node.lineno, at_once) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from (Import(name, imported, node.lineno, at_once) for imported in origins(node, package))
    inside = at_once and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in ast.iter_child_nodes(node):
        yield from walk(child, name, package, at_once=inside)


def origins(node, package):
    """Return the modules that ``from … import …`` reads: each name, when the module is a package of ours."""
    above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
    module = ".".join([*above, *([node.module] if node.module else [])])
    return [f"{module}.{alias.name}" if f"{module}.{alias.name}" in NAMES else module for alias in node.names]


def room(module):
    parts = module.split(".")
    return parts[2] if parts[:2] == ["factorstream", "worker"] and len(parts) > 2 else "client"


NAMES = {name for name, _ in modules()}
IMPORTS = [one for name, path in modules() for one in imports(name, path)]
OURS = [one for one in IMPORTS if one.imported.split(".")[0] == "factorstream"]


def test_the_rooms_are_those_of_the_plan():
    assert {room(name) for name in NAMES} - {"client"} - LEAVES <= MAY_IMPORT.keys()


@pytest.mark.parametrize("name", sorted({room(name) for name in NAMES} - LEAVES))
def test_imports_point_inwards(name):
    allowed = MAY_IMPORT.get(name, set()) | {name} | (set() if name in ("kernels", "client") else LEAVES)
    front_door = ("factorstream.console", "factorstream.worker.cli.main")
    wrong = [
        str(one)
        for one in OURS
        if room(one.importer) == name and room(one.imported) not in allowed and allowed.isdisjoint(ALL) and one[:2] != front_door
    ]
    assert wrong == []


@pytest.mark.parametrize("name", sorted(LEAVES))
def test_leaves_import_nothing_of_the_worker(name):
    assert [str(one) for one in OURS if room(one.importer) == name and room(one.imported) not in (name, "client")] == []


@pytest.mark.parametrize("library", ONLY_IN)
def test_libraries_stay_in_their_rooms(library):
    wrong = [one for one in IMPORTS if one.imported.split(".")[0] == library and not one.importer.startswith(ONLY_IN[library])]
    assert [str(one) for one in wrong] == []


def test_torch_is_imported_only_when_used():
    wrong = [one for one in IMPORTS if one.imported.split(".")[0] == "torch" and one.at_once]
    assert [str(one) for one in wrong if not one.importer.startswith("factorstream.worker.kernels.gpu")] == []
    assert "torch" not in loaded_after("import factorstream.worker.wiring as w; w.kernels.select('cpu')")


def test_the_worker_has_one_name():
    tests = list((ROOT / "tests").rglob("*.py"))
    everywhere = IMPORTS + [one for path in tests for one in imports(name_of("tests", path.relative_to(ROOT / "tests")), path)]
    assert [str(one) for one in everywhere if one.imported.split(".")[0] == "worker"] == []


def loaded_after(statement):
    code = f"import sys; {statement}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_the_list_of_commands_is_there_before_anything_heavy_is_imported():
    assert loaded_after("import factorstream.worker.cli.main").isdisjoint(HEAVY)


def test_the_client_is_light():
    assert loaded_after("import factorstream").isdisjoint({"numba", "torch", "kafka", "typer", "factorstream.worker"})


def test_kernels_models_and_learners_need_no_library_of_the_rim():
    rooms = ("kernels.cpu", "kernels.selftest", "model.model", "learn.learner")
    found = loaded_after("; ".join(f"import factorstream.worker.{room}" for room in rooms))
    assert found.isdisjoint({"msgspec", "kafka", "redis", "pydantic", "structlog", "typer", "rich"})
