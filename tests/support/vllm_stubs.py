"""A shortened copy of the sources of the vLLM for GPUs, as far as ours use them.

    python -m tests.support.vllm_stubs [WHEEL]      writes tests/data/vllm-stubs.json (`make vllm-stubs`)

The wheel is too large to be fetched in every check (340 MB). Without WHEEL pip downloads the version that pyproject.toml pins.
Of a module the file keeps classes with the parameters of their methods and the attributes that these set, functions with their
parameters, imports: all of them where our sources import the module, elsewhere those that were looked up.
"""

from __future__ import annotations

import ast
import hashlib
import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import TypedDict

from tests.support.vllm_sources import ENVIRONMENT, VllmSources, bound_names
from tests.support.vllm_uses import Uses

ROOT = Path(__file__).resolve().parents[2]
STUBS = ROOT / "tests" / "data" / "vllm-stubs.json"
OURS = ROOT / "actor" / "engines" / "vllm"
# the class that vLLM mixes ours into
GPU_WORKER = {"WorkerExtension": "vllm.v1.worker.gpu_worker:Worker"}
CPU_WORKER = {"WorkerExtension": "vllm.v1.worker.cpu_worker:CPUWorker"}


class Stubs(TypedDict):
    """The file."""

    wheel: str  # its name
    sha256: str
    sources: dict[str, str]  # path in the wheel -> shortened source


def our_sources() -> dict[str, str]:
    """Everything of ours that may import vLLM, by its path below `OURS`."""
    return {str(path.relative_to(OURS)): path.read_text() for path in sorted(OURS.rglob("*.py"))}


def load_stubs() -> Stubs:
    return json.loads(STUBS.read_text())


def pinned_version() -> str:
    """Of the vLLM for GPUs."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    return extras["gpu"][0].removeprefix("vllm==")


def make_stubs(wheel: Path) -> Stubs:
    vllm = VllmSources.of_wheel(wheel)
    Uses(vllm, GPU_WORKER).read(our_sources())
    for path in imported_paths(vllm):
        vllm.visited.setdefault(path, set()).update(bound_names(ast.parse(vllm.source(path)).body))
    sources = {path: shortened(vllm.source(path), names) for path, names in sorted(vllm.visited.items())}
    sources[ENVIRONMENT] = "\n".join(sorted(vllm.variables))
    return {"wheel": wheel.name, "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest(), "sources": sources}


def imported_paths(vllm: VllmSources) -> set[str]:
    """The modules that ours import, which are kept whole: the next name that we use is then most likely there."""
    nodes = [node for source in our_sources().values() for node in ast.walk(ast.parse(source))]
    modules = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level and node.module}
    return {vllm.path(module) for module in modules if vllm.is_module(module)}


def shortened(source: str, names: set[str]) -> str:
    """The statements that bind `names`, with nothing in them that `VllmSources` does not read."""
    statements = bound_names(ast.parse(source).body)
    kept = [_shortened(statements[name], name) for name in sorted(names)]
    return ast.unparse(ast.fix_missing_locations(ast.Module(body=kept, type_ignores=[])))


def _shortened(statement: ast.stmt, name: str) -> ast.stmt:
    nothing = ast.Expr(ast.Constant(...))
    match statement:
        case ast.ImportFrom(module=module, names=aliases, level=level):
            return ast.ImportFrom(module, [alias for alias in aliases if (alias.asname or alias.name) == name], level)
        case ast.ClassDef(name=own, bases=bases, body=body):
            return ast.ClassDef(own, bases, [], [part for member in body for part in _member(member)] or [nothing], [])
        case ast.FunctionDef(args=arguments):
            return ast.FunctionDef(name, arguments, [nothing], [])
    return ast.Assign([ast.Name(name)], ast.Constant(...))


def _member(member: ast.stmt) -> list[ast.stmt]:
    match member:
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            attributes = [
                node for node in ast.walk(member) if isinstance(node, ast.Assign | ast.AnnAssign) and _sets_self(node)
            ]
            body: list[ast.stmt] = [_plain(node) for node in attributes]
            member.body = body or [ast.Expr(ast.Constant(...))]
            return [member]
        case ast.AnnAssign() | ast.Assign():
            return [member]
    return []


def _sets_self(node: ast.Assign | ast.AnnAssign) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return any("self." in ast.unparse(target) for target in targets)


def _plain(node: ast.Assign | ast.AnnAssign) -> ast.stmt:
    """The assignment without the arguments of a call, or without its value if that is no call."""
    if isinstance(node.value, ast.Call):
        node.value.args, node.value.keywords = [], []
    elif node.value is not None:
        node.value = ast.Constant(...)
    return node


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        if sys.argv[1:]:
            wheel = Path(sys.argv[1])
        else:
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--dest",
                folder,
                f"vllm=={pinned_version()}",
            ]
            subprocess.run(command, check=True, timeout=1800)
            wheel = next(Path(folder).glob("vllm-*.whl"))
        STUBS.write_text(json.dumps(make_stubs(wheel), indent=1) + "\n")
    print(f"{STUBS.relative_to(ROOT)}: {len(load_stubs()['sources'])} modules of {load_stubs()['wheel']}")


if __name__ == "__main__":
    main()
