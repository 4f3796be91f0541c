"""The house rules that a machine can hold: lengths, banned constructs, names. Each test lists every offender."""

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("actor", "learner", "buffer", "verifiers", "common", "launch", "bench")
MODULES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
MAX_FILE_LINES = 450  # 400 is a sign to think
MAX_FUNCTION_LINES = 60  # the aim is 40; a main loop may fill a page
BANNED = {
    "pickle on a wire or in a file": r"\b(cloudpickle|pickle|dill|marshal|shelve|joblib|jsonpickle)\b|(recv|send)_pyobj",
    "objects pickled by a library": r"allow_pickle\s*=\s*True|(broadcast|scatter|gather|send|recv)_object|\bread_pickle\b",
    "JSON past the wire's checks": r"\.(send|recv)_(json|string|serialized)\(",
    "code chosen by configuration": r"hydra\.utils|\binstantiate\(|\b_target_\b|\bget_(class|method|object)\(",
    "modules named by configuration": r"\bimport_module\(|\bspec_from_file_location\(|\brun_(path|module)\(",
    "code of strangers": r"trust_remote_code\s*=\s*(?!False)|trust_remote_code[\"']\s*:\s*(?!False)",
    "torch.load, which unpickles": r"\btorch\.load\(|\bfrom torch import .*\bload\b|weights_only\s*=\s*False",
    "code made of text": r"(?<![\w.])(eval|exec|compile|__import__)\((?!\))",
    "YAML that makes objects": r"\byaml\.((full_|unsafe_)?load(_all)?)\(|\b(Unsafe|Full|C?)Loader\b",
    "a shell": r"shell\s*=\s*True|\bos\.(system|popen)\(|\bgetoutput\(|create_subprocess_shell\(",
    "sleep where an event exists": r"\btime\.sleep\(",
    "an error swallowed": r"except Exception:\s*(pass|continue)|except:\s",
    "a wildcard address": r"tcp://\*",
    "unfinished work": r"\b(TODO|FIXME|XXX)\b",
}
SAMPLES = {  # what each pattern must find: one that matches nothing would keep its rule for ever
    "pickle on a wire or in a file": (
        "import pickle",
        "from cloudpickle import dumps",
        "dill.loads(x)",
        "marshal.load(f)",
        "import shelve",
        "joblib.load(path)",
        "socket.send_pyobj(x)",
        "socket.recv_pyobj()",
    ),
    "objects pickled by a library": (
        "np.load(path, allow_pickle=True)",
        "dist.broadcast_object_list(x)",
        "pd.read_pickle(path)",
    ),
    "JSON past the wire's checks": ("socket.send_json(x)", "socket.recv_json()", "socket.recv_serialized(f)"),
    "code chosen by configuration": ("hydra.utils.call(x)", "instantiate(cfg.model)", '{"_target_": name}', "get_class(name)"),
    "modules named by configuration": (
        "importlib.import_module(cfg.name)",
        "spec_from_file_location(name, path)",
        "runpy.run_path(path)",
    ),
    "code of strangers": (
        "f(trust_remote_code=True)",
        "f(trust_remote_code=cfg.trust)",
        '{"trust_remote_code": True}',
    ),
    "torch.load, which unpickles": (
        "torch.load(x)",
        "from torch import load",
        "f(weights_only=False)",
    ),
    "code made of text": ("eval(text)", "exec(code)", "compile(text, name, mode)", "__import__(name)"),
    "YAML that makes objects": (
        "yaml.load(text)",
        "yaml.unsafe_load(text)",
        "yaml.load_all(f)",
        "Loader=yaml.FullLoader",
        "Loader=Loader",
    ),
    "a shell": (
        "run(x, shell=True)",
        "os.system(command)",
        "os.popen(command)",
        "subprocess.getoutput(command)",
        "await asyncio.create_subprocess_shell(command)",
    ),
    "sleep where an event exists": ("time.sleep(1)",),
    "an error swallowed": ("try: f()\nexcept Exception: pass", "try: f()\nexcept: pass"),
    "a wildcard address": ("bind('tcp://*:1')",),
    "unfinished work": ("x = 1  # TODO",),
}
HARMLESS = (
    "re.compile(pattern)",
    "model.eval()",
    "AutoConfig.from_pretrained(path, trust_remote_code=False)",
    "yaml.safe_load(text)",
    "torch.compile(model)",
    "np.load(path, allow_pickle=False)",
    "asyncio.create_subprocess_exec(*command)",
)
MODULES_BY_NAME = {
    "launch/cli.py",
    "verifiers/user_verifiers.py",  # of the actor's own configuration, in a worker: docs/verifiers.md
    "verifiers/sandbox/jailed_main.py",
    "verifiers/sandbox/jail_server.py",
}  # from tables of ours, or in the sandbox; never from a prompt, a message or a checkpoint
IN_ANOTHER_ENVIRONMENT = {
    "verifiers/services/environment_host.py"
}  # where `verifiers` is the package of PyPI, and nothing is ours
SOCKET_MAKERS = {"common/transport/sockets.py", "common/transport/gate.py"}  # where keys, limits and lingering are seen to
EMPTY_NAMES = {"util", "utils", "helper", "helpers", "misc", "manager", "managers"}


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_files_are_short() -> None:
    lengths = {relative(path): path.read_text().count("\n") for path in MODULES}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_FILE_LINES} == {}


def test_functions_fit_on_a_page() -> None:
    lengths = {
        f"{relative(path)} {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path in MODULES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: lines for name, lines in lengths.items() if lines > MAX_FUNCTION_LINES} == {}


def test_nothing_banned_is_used() -> None:
    code = {relative(path): _without_docstrings(path) for path in MODULES}
    found = [(name, what) for name, text in code.items() for what, pattern in BANNED.items() if re.search(pattern, text)]
    allowed = {(name, "modules named by configuration") for name in MODULES_BY_NAME}
    assert [offence for offence in found if offence not in allowed] == []


def test_sockets_are_made_where_they_are_guarded() -> None:
    making = {relative(path) for path in MODULES if re.search(r"\.socket\(\s*zmq\.", _without_docstrings(path))}
    assert {name for name in making if not name.startswith("bench/")} == SOCKET_MAKERS


def test_modules_say_what_they_are() -> None:
    assert [relative(path) for path in MODULES if not ast.get_docstring(tree_of(path)) or path.stem in EMPTY_NAMES] == []


def test_help_keeps_the_lines_of_a_table() -> None:
    # argparse joins the lines of a description, unless it is told not to
    shown = [path for path in MODULES if "description=__doc__" in path.read_text()]
    tables = [path for path in shown if re.search(r"^ +\S", ast.get_docstring(tree_of(path)) or "", re.MULTILINE)]
    assert tables
    assert [relative(path) for path in tables if "RawDescriptionHelpFormatter" not in path.read_text()] == []


def test_our_folders_import_each_other_relatively() -> None:
    offenders = []
    for path in MODULES:
        for node in ast.walk(tree_of(path)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            offenders += [(relative(path), name) for name in names if name.split(".")[0] in ("prolong", *FOLDERS)]
    assert [offence for offence in offenders if offence[0] not in IN_ANOTHER_ENVIRONMENT] == []


@pytest.mark.parametrize(("what", "sample"), [(what, sample) for what, samples in SAMPLES.items() for sample in samples])
def test_the_banned_patterns_find_what_they_ban(what: str, sample: str) -> None:
    assert re.search(BANNED[what], sample)


def test_every_ban_is_shown_to_find_something_and_nothing_harmless() -> None:
    assert SAMPLES.keys() == BANNED.keys()
    assert [(text, what) for text in HARMLESS for what, pattern in BANNED.items() if re.search(pattern, text)] == []


def _without_docstrings(path: Path) -> str:
    """The source without its docstrings: a word there is not a use. Comments stay."""
    lines = path.read_text().splitlines()
    for node in ast.walk(tree_of(path)):
        body = getattr(node, "body", None)
        if not isinstance(body, list) or not body or not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            continue
        first = body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            lines[first.lineno - 1 : first.end_lineno] = [""] * ((first.end_lineno or first.lineno) - first.lineno + 1)
    return "\n".join(lines)
