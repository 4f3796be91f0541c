"""vLLM's classes, functions and signatures, read from its sources without importing it.

Sources are read from a wheel, from an installed package or from the shortened copy that `vllm_stubs.py` keeps of a wheel. Only
what is written down there is known: members made with `setattr` are not.
"""

from __future__ import annotations

import ast
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

ENVIRONMENT = "vllm/envs.py"
NOT_FIELDS = re.compile(r"ClassVar|init=False")


@dataclass
class ClassSignature:
    """One class of vLLM with what it inherits within vLLM. Parameters are as in the source, `self` included."""

    members: dict[str, str | None] = field(default_factory=dict)  # name -> parameters of a method, None: not a method
    fields: str = ""  # the parameters of a dataclass, in order
    types: dict[str, str] = field(
        default_factory=dict
    )  # attribute -> "module:Class" or "module:Class.method", of what is returned
    returns: dict[str, str] = field(default_factory=dict)  # method -> "module:Class"
    abstract: list[str] = field(default_factory=list)

    @property
    def constructor(self) -> str:
        return self.members.get("__init__") or f"self, {self.fields}"


class VllmSources:
    """Modules of vLLM, by name; `read` gives the source of a path such as vllm/outputs.py, or None."""

    def __init__(self, read: Callable[[str], str | None]) -> None:
        self._read = read
        self.visited: dict[str, set[str]] = {}  # path -> the names that were looked up there
        self._modules: dict[str, dict[str, ast.stmt] | None] = {}
        self._classes: dict[str, ClassSignature] = {}

    @classmethod
    def of_wheel(cls, path: Path) -> VllmSources:
        archive = zipfile.ZipFile(path)
        names = set(archive.namelist())
        return cls(lambda name: archive.read(name).decode() if name in names else None)

    @classmethod
    def of_folder(cls, path: Path) -> VllmSources:
        """`path` holds the folder vllm."""
        return cls(lambda name: (path / name).read_text() if (path / name).is_file() else None)

    def source(self, path: str) -> str:
        return self._read(path) or ""

    def is_module(self, module: str) -> bool:
        return self._names(module) is not None

    @cached_property
    def variables(self) -> set[str]:
        """The environment variables that vLLM knows."""
        return set(re.findall(r"VLLM_\w+", self._read(ENVIRONMENT) or ""))

    def find(self, module: str, name: str) -> tuple[str, ast.stmt] | None:
        """(module, definition) of what `from module import name` gives, followed through re-exports."""
        statement = (self._names(module) or {}).get(name)
        if statement is not None:
            self.visited.setdefault(self.path(module), set()).add(name)
        if isinstance(statement, ast.ImportFrom):
            source = _absolute(statement, module, package=self._is_package(module))
            original = next(alias.name for alias in statement.names if (alias.asname or alias.name) == name)
            return self.find(source, original)
        return None if statement is None else (module, statement)

    def function(self, module: str, name: str) -> str | None:
        """Parameters of a function; None if it is none."""
        found = self.find(module, name)
        return ast.unparse(found[1].args) if found and isinstance(found[1], ast.FunctionDef) else None

    def reference(self, module: str, name: str) -> str | None:
        """ "module:Class" of a class that is known under `name` in `module`; None for anything else."""
        found = self.find(module, name)
        return f"{found[0]}:{name}" if found and isinstance(found[1], ast.ClassDef) else None

    def signature(self, reference: str) -> ClassSignature:
        if reference not in self._classes:
            module, _, name = reference.partition(":")
            found = self.find(module, name)
            assert found is not None
            assert isinstance(found[1], ast.ClassDef)
            self._classes[reference] = self._read_class(found[0], found[1])
        return self._classes[reference]

    def _read_class(self, module: str, definition: ast.ClassDef) -> ClassSignature:
        merged = ClassSignature()
        fields: list[str] = []
        for base in reversed(definition.bases):
            plain = base.value if isinstance(base, ast.Subscript) else base
            reference = self.reference(module, plain.id) if isinstance(plain, ast.Name) else None
            if reference is not None:
                inherited = self.signature(reference)
                merged.members |= inherited.members
                merged.types |= inherited.types
                merged.returns |= inherited.returns
                merged.abstract += inherited.abstract
                fields += [inherited.fields] if inherited.fields else []
        for statement in definition.body:
            self._read_member(module, definition.name, statement, merged, fields)
        merged.fields = ", ".join(fields)
        methods = _methods(definition)
        abstract = {name for name, method in methods.items() if "abstractmethod" in _decorators(method)}
        merged.abstract = sorted((set(merged.abstract) - methods.keys()) | abstract)
        return merged

    def _read_member(self, module: str, owner: str, statement: ast.stmt, signature: ClassSignature, fields: list[str]) -> None:
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name)):
                signature.members[name] = None
                if not NOT_FIELDS.search(ast.unparse(statement)):
                    fields.append(name if statement.value is None else f"{name}=...")
                _note_type(module, name, statement.annotation, signature.types)
            case ast.Assign(targets=targets):
                signature.members |= {target.id: None for target in targets if isinstance(target, ast.Name)}
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                decorators = _decorators(statement)
                attribute = decorators & {"property", "cached_property", "setter"}
                signature.members[name] = None if attribute else _parameters(statement, static="staticmethod" in decorators)
                if statement.returns is not None:
                    _note_type(module, name, statement.returns, signature.types if attribute else signature.returns, owner)
                for assigned in ast.walk(statement):
                    _read_assignment(module, assigned, signature)

    def class_of(self, written: str | None) -> str:
        """ "module:Class" of a type as `ClassSignature` has it; empty if it is no class of vLLM."""
        module, _, name = (written or "").partition(":")
        owner, _, method = name.partition(".")
        if method:
            found = self.find(module, owner)
            methods = _methods(found[1]) if found and isinstance(found[1], ast.ClassDef) else {}
            if found is None or method not in methods:
                return ""
            module, owner = found[0], annotated_name(methods[method].returns)
        return self.reference(module, owner) or ""

    def _is_package(self, module: str) -> bool:
        return self._read(f"{module.replace('.', '/')}/__init__.py") is not None

    def _names(self, module: str) -> dict[str, ast.stmt] | None:
        """The top-level statement that binds each name; None if there is no such module."""
        if module not in self._modules:
            source = self._read(self.path(module)) if module.split(".")[0] == "vllm" else None
            self._modules[module] = None if source is None else bound_names(ast.parse(source).body)
        return self._modules[module]

    def path(self, module: str) -> str:
        path = module.replace(".", "/")
        return f"{path}/__init__.py" if self._is_package(module) else f"{path}.py"


def annotated_name(annotation: ast.expr | None) -> str:
    """The class that an annotation names, without `| None` and quotes; empty for anything more complicated."""
    match annotation:
        case ast.Name(id=name):
            return name
        case ast.Constant(value=str(text)) if text.isidentifier():
            return text
        case ast.BinOp(left=left, right=ast.Constant(value=None)):
            return annotated_name(left)
    return ""


def bound_names(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    names: dict[str, ast.stmt] = {}
    for statement in body:
        match statement:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names[name] = statement
            case ast.ImportFrom(names=aliases):
                names |= {alias.asname or alias.name: statement for alias in aliases}
            case ast.Assign(targets=targets):
                names |= {target.id: statement for target in targets if isinstance(target, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                names[name] = statement
            case ast.If(body=then, orelse=other) | ast.Try(body=then, orelse=other):
                names = bound_names(then) | bound_names(other) | names
    return names


def _absolute(statement: ast.ImportFrom, module: str, *, package: bool) -> str:
    if not statement.level:
        return statement.module or ""
    parts = module.split(".")
    parent = parts[: len(parts) - statement.level + (1 if package else 0)]
    return ".".join([*parent, *([statement.module] if statement.module else [])])


def _parameters(method: ast.FunctionDef | ast.AsyncFunctionDef, *, static: bool) -> str:
    text = ast.unparse(method.args)
    return f"self, {text}" if static else text


def _methods(definition: ast.ClassDef) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    return {node.name: node for node in definition.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def _decorators(method: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    return {ast.unparse(decorator).split(".")[-1] for decorator in method.decorator_list}


def _read_assignment(module: str, statement: ast.AST, signature: ClassSignature) -> None:
    """`self.x = ...` in a method makes the attribute x."""
    if isinstance(statement, ast.Assign | ast.AnnAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        for target in [part for whole in targets for part in (whole.elts if isinstance(whole, ast.Tuple) else [whole])]:
            if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self":
                signature.members.setdefault(target.attr, None)
                if isinstance(statement, ast.AnnAssign):
                    _note_type(module, target.attr, statement.annotation, signature.types)
                elif made := _made_by(statement.value):
                    signature.types[target.attr] = f"{module}:{made}"


def _note_type(module: str, name: str, annotation: ast.expr, into: dict[str, str], owner: str = "") -> None:
    if text := annotated_name(annotation):
        into[name] = f"{module}:{owner if text == 'Self' else text}"


def _made_by(value: ast.expr) -> str:
    """ "Class" of `Class(...)`, "Class.method" of `Class.method(...)`."""
    match value:
        case ast.Call(func=ast.Name(id=name)):
            return name
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=method)):
            return f"{name}.{method}"
    return ""
