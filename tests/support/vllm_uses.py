"""What our sources use of vLLM, found in them without importing anything, and what of it a vLLM does not have.

    names that are imported from vllm               -> exist
    calls of them, and of methods                   -> the arguments fit
    attributes of a parameter or variable whose     -> exist
      annotation is a class of vLLM
    our classes over vLLM's: `self.x`, `super().f`, -> exist there; an override takes the same parameters;
      overridden and abstract methods                  no abstract method is left out
    `**settings` of a call: the keys of that dict   -> are parameters
    VLLM_... in strings                             -> are environment variables that vLLM reads

Types are followed through annotations, constructors and assignments only, so that what is typed `Any` is not checked.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeGuard

from tests.support.vllm_sources import ClassSignature, VllmSources, annotated_name

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Uses:
    """The findings in one vLLM; `extended` names the class that vLLM mixes a class of ours into."""

    vllm: VllmSources
    extended: dict[str, str]
    problems: list[str] = field(default_factory=list)
    num_checks: int = 0

    def expect(self, holds: bool, where: str, node: ast.AST, problem: str) -> None:
        self.num_checks += 1
        if not holds:
            self.problems.append(f"{where}:{getattr(node, 'lineno', '?')}: {problem}")

    def read(self, sources: dict[str, str]) -> None:
        """Check our modules, file name -> source. They are read together, because classes of one extend those of another."""
        modules = [_Module(name, ast.parse(source), self) for name, source in sources.items()]
        classes = {name: definition for module in modules for name, definition in module.classes.items()}
        bases = {name: base for module in modules for name, base in module.vllm_bases.items()} | self.extended
        # a class that is mixed into one over vLLM's extends the same
        mixed = {own: bases[name] for name in bases if name in classes for own in map(ast.unparse, classes[name].bases)}
        for module in modules:
            module.check({name: base for name in module.classes if (base := bases.get(name) or mixed.get(name))})


class _Module:
    """One of our modules."""

    def __init__(self, where: str, tree: ast.Module, uses: Uses) -> None:
        self.where, self.tree, self.uses, self.vllm = where, tree, uses, uses.vllm
        self.classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
        self.imported: dict[str, tuple[str, str]] = {}  # name here -> (module, name there)
        self.modules: dict[str, str] = {}  # name here -> module
        self._read_imports()
        self.vllm_bases = {name: base for name, node in self.classes.items() if (base := self._vllm_base(node))}

    def _read_imports(self) -> None:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == "vllm":
                assert node.module is not None
                for alias in node.names:
                    name, submodule = alias.asname or alias.name, f"{node.module}.{alias.name}"
                    if self.vllm.is_module(submodule):
                        self.modules[name] = submodule
                        continue
                    self.imported[name] = node.module, alias.name
                    known = self.vllm.find(node.module, alias.name) is not None
                    self.uses.expect(known, self.where, node, f"{node.module} has no {alias.name}")

    def _vllm_base(self, definition: ast.ClassDef) -> str:
        """The first base that is vLLM's."""
        plain = (base.value if isinstance(base, ast.Subscript) else base for base in definition.bases)
        return next((reference for base in plain if (reference := self.class_named(base))), "")

    def class_named(self, node: ast.expr | None) -> str:
        """ "module:Class" of a name that is imported from vLLM, or of a name in a module of it."""
        match node:
            case ast.Attribute(value=ast.Name(id=module), attr=inner) if module in self.modules:
                return self.vllm.reference(self.modules[module], inner) or ""
        name = annotated_name(node)
        return (self.vllm.reference(*self.imported[name]) or "") if name in self.imported else ""

    def check(self, bases: dict[str, str]) -> None:
        for name, definition in self.classes.items():
            if name in bases:
                self._check_class(definition, self.vllm.signature(bases[name]))
            attributes = self._attributes(definition)
            for method in (node for node in definition.body if isinstance(node, Function)):
                _Scope(self, method, attributes, bases.get(name, "")).check()
        functions = [node for node in self.tree.body if isinstance(node, Function)]
        rest = [node for node in self.tree.body if not isinstance(node, Function | ast.ClassDef)]
        module = ast.parse("def module(): ...").body[0]
        assert isinstance(module, ast.FunctionDef)
        module.body = rest
        for function in (*functions, module):
            _Scope(self, function, {}, "").check()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"VLLM_[A-Z0-9_]+", node.value):
                self.uses.expect(node.value in self.vllm.variables, self.where, node, f"vLLM reads no {node.value}")

    def _attributes(self, definition: ast.ClassDef) -> dict[str, str]:
        """Types of the attributes that are annotated, or get an annotated parameter: `self._llm = llm`."""
        # an annotation of ours is narrower than vLLM's
        annotated = [node for node in definition.body if isinstance(node, ast.AnnAssign)]
        types = {ast.unparse(node.target): self.class_named(node.annotation) for node in annotated}
        for method in (node for node in definition.body if isinstance(node, Function)):
            parameters = {argument.arg: self.class_named(argument.annotation) for argument in method.args.args}
            for node in ast.walk(method):
                match node:
                    case ast.Assign(targets=[ast.Attribute(value=ast.Name(id="self"), attr=name)], value=ast.Name(id=given)):
                        if parameters.get(given):
                            types[name] = parameters[given]
        return types

    def _check_class(self, definition: ast.ClassDef, base: ClassSignature) -> None:
        methods = {node.name: node for node in definition.body if isinstance(node, Function)}
        own = set(methods) | {target for node in definition.body for target in _assigned(node)}
        own |= {node.attr for node in ast.walk(definition) if _is_self(node) and isinstance(node.ctx, ast.Store)}
        for node in ast.walk(definition):
            if _is_self(node) and node.attr not in own:
                self.uses.expect(node.attr in base.members, self.where, node, f"vLLM's class has no {node.attr}")
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Call(func=ast.Name(id="super")), attr=name)):
                    self.check_call(node, base.members.get(name, ""), f"super().{name}", inherited=name in base.members)
        if definition.name in self.vllm_bases:
            left = [name for name in base.abstract if name not in own]
            self.uses.expect(not left, self.where, definition, f"{definition.name} lacks {left}")
        for name, method in methods.items():
            if (theirs := base.members.get(name)) is not None and name != "__init__":
                wanted = _names(_arguments(theirs))
                given = _names(method.args)
                free = method.args.vararg is not None and method.args.kwarg is not None
                fits = free or wanted == given
                self.uses.expect(fits, self.where, method, f"{definition.name}.{name} takes {given}, vLLM's {wanted}")

    def check_call(self, call: ast.Call, parameters: str | None, what: str, *, inherited: bool = True) -> None:
        """Whether the arguments of a call of a method fit. `parameters` None: what is called is no method."""
        self.uses.expect(inherited, self.where, call, f"vLLM has no {what}")
        if inherited and parameters is not None:
            problem = misfit(call, _arguments(parameters), self.settings_of(call))
            self.uses.expect(not problem, self.where, call, f"{what}: {problem}")

    def settings_of(self, call: ast.Call) -> list[str]:
        """The keys of `settings` in `f(**settings)`: all string keys of dictionaries in the function that holds the call."""
        starred = {keyword.value.id for keyword in call.keywords if keyword.arg is None and isinstance(keyword.value, ast.Name)}
        holder = next((node for node in ast.walk(self.tree) if isinstance(node, Function) and call in ast.walk(node)), None)
        if not starred or holder is None:
            return []
        return [key for node in ast.walk(holder) for key in _keys(node, starred)]


class _Scope:
    """A function of ours, and the types of its variables."""

    def __init__(self, module: _Module, function: Function, attributes: dict[str, str], base: str) -> None:
        self.module, self.function, self.vllm = module, function, module.vllm
        self.attributes, self.base = attributes, base
        arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        self.types = {argument.arg: module.class_named(argument.annotation) for argument in arguments}
        for node in ast.walk(function):
            if isinstance(node, ast.Assign):
                for target, value in _pairs(node):
                    if isinstance(target, ast.Name):
                        self.types.setdefault(target.id, self.type_of(value))

    def type_of(self, node: ast.expr) -> str:
        """ "module:Class" of an expression; empty if it is unknown."""
        match node:
            case ast.Name(id=name):
                return self.types.get(name, "")
            case ast.Attribute(value=ast.Name(id="self"), attr=name):
                inherited = self.vllm.signature(self.base).types if self.base else {}
                return self.attributes[name] if name in self.attributes else self.vllm.class_of(inherited.get(name))
            case ast.Attribute(value=inner, attr=name):
                outer = self.type_of(inner)
                return self.vllm.class_of(self.vllm.signature(outer).types.get(name)) if outer else ""
            case ast.Call(func=ast.Attribute(value=ast.Name() as owner, attr=name)) if self.module.class_named(owner):
                return self.vllm.class_of(self.vllm.signature(self.module.class_named(owner)).returns.get(name))
            case ast.Call(func=ast.Name() as name):
                return self.module.class_named(name)
            case ast.Await(value=inner):
                return self.type_of(inner)
        return ""

    def check(self) -> None:
        for node in ast.walk(self.function):
            if isinstance(node, ast.Attribute):
                self._check_attribute(node)
            if isinstance(node, ast.Call):
                self._check_call(node)

    def _check_attribute(self, node: ast.Attribute) -> None:
        # an attribute of a class itself (an enum's member, a class method) or of a value of that class
        reference = self.type_of(node.value) or self.module.class_named(node.value)
        if reference:
            known = node.attr in self.vllm.signature(reference).members
            self.module.uses.expect(known, self.module.where, node, f"{reference} has no {node.attr}")
        if isinstance(node.value, ast.Name) and node.value.id in self.module.modules:
            module = self.module.modules[node.value.id]
            known = self.vllm.find(module, node.attr) is not None
            self.module.uses.expect(known, self.module.where, node, f"{module} has no {node.attr}")

    def _check_call(self, call: ast.Call) -> None:
        match call.func:
            case ast.Name(id=name) if name in self.module.imported:
                reference, where = self.module.class_named(call.func), self.module.imported[name]
                plain = self.vllm.function(*where)
                parameters = self.vllm.signature(reference).constructor if reference else plain and f"self, {plain}"
                self.module.check_call(call, parameters, name)
            case ast.Attribute(value=value, attr=name):
                reference = self.type_of(value) or self.module.class_named(value)
                if reference and name in (signature := self.vllm.signature(reference)).members:
                    self.module.check_call(call, signature.members[name], f"{reference}.{name}")


def misfit(call: ast.Call, arguments: ast.arguments, settings: list[str]) -> str:
    """Why the call does not fit the parameters of a method, its `self` aside; empty if it does."""
    positional = [argument.arg for argument in [*arguments.posonlyargs, *arguments.args]][1:]
    known = {*positional, *(argument.arg for argument in arguments.kwonlyargs)}
    given = [keyword.arg for keyword in call.keywords if keyword.arg is not None] + settings
    unknown = [name for name in given if name not in known]
    if unknown and arguments.kwarg is None:
        return f"no parameters {unknown}"
    starred = any(isinstance(argument, ast.Starred) for argument in call.args)
    if len(call.args) > len(positional) and arguments.vararg is None and not starred:
        return f"{len(call.args)} arguments for {positional}"
    open_ended = starred or any(keyword.arg is None for keyword in call.keywords)
    required = positional[: len(positional) - len(arguments.defaults)] if arguments.defaults else positional
    required += [a.arg for a, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if default is None]
    left = [name for name in required if name not in positional[: len(call.args)] and name not in given]
    return f"lacks {left}" if left and not open_ended else ""


def _arguments(text: str) -> ast.arguments:
    function = ast.parse(f"def f({text}): ...").body[0]
    assert isinstance(function, ast.FunctionDef)
    return function.args


def _names(arguments: ast.arguments) -> list[str]:
    return [argument.arg for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]]


def _is_self(node: ast.AST) -> TypeGuard[ast.Attribute]:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"


def _assigned(node: ast.stmt) -> list[str]:
    match node:
        case ast.AnnAssign(target=ast.Name(id=name), value=value) if value is not None:
            return [name]
        case ast.Assign(targets=targets):
            return [target.id for target in targets if isinstance(target, ast.Name)]
    return []


def _pairs(node: ast.Assign) -> Iterator[tuple[ast.expr, ast.expr]]:
    """(target, value) of `a = x` and of each part of `a, b = x, y`."""
    for target in node.targets:
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            yield from zip(target.elts, node.value.elts, strict=False)
        else:
            yield target, node.value


def _keys(node: ast.AST, names: set[str]) -> list[str]:
    """The string keys that a statement gives one of these dictionaries."""
    match node:
        case ast.Assign(targets=[ast.Name(id=name)], value=ast.Dict(keys=keys)) if name in names:
            pass
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.Dict(keys=keys)) if name in names:
            pass
        case ast.AugAssign(target=ast.Name(id=name), value=ast.Dict(keys=keys)) if name in names:
            pass
        case ast.Assign(targets=[ast.Subscript(value=ast.Name(id=name), slice=key)]) if name in names:
            keys = [key]
        case _:
            return []
    return [key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)]
