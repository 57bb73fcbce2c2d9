"""The schema of Terraform's AWS provider, read from the bindings that CDK for Terraform generates of it.

Each resource is a class whose arguments are the attributes and nested blocks of the resource; a block is
a class of its own. The package is read as it was downloaded, neither installed nor imported.
"""

import ast
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

META = {"count", "for_each", "depends_on", "lifecycle", "provider", "dynamic", "provisioner", "connection"}
"""What every resource understands."""


@dataclass(frozen=True)
class Block:
    """What may stand in a resource or a nested block, and what has to."""

    attributes: frozenset[str]
    required: frozenset[str]
    blocks: dict[str, str]
    """Names of nested blocks, and of the classes that describe them."""


class Provider:
    """The resources and data sources of a provider."""

    def __init__(self, wheel: Path) -> None:
        self._archive = zipfile.ZipFile(wheel)
        self._package = next(iter(self._archive.namelist())).partition("/")[0]
        self._known: dict[str, dict[str, Block]] = {}

    def blocks_of(self, module: str) -> dict[str, Block]:
        """Every class of a resource's module, by name in lower case."""
        if module not in self._known:
            source = self._archive.read(f"{self._package}/{module}/__init__.py").decode()
            classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
            self._known[module] = {node.name.lower(): _block(node) for node in classes}
        return self._known[module]

    def faults(self, kind: str, name: str, body: dict[str, Any], *, data: bool = False) -> list[str]:
        """What is wrong with a resource: attributes that there are not, and those that are missing."""
        module = f"data_{kind}" if data else kind.removeprefix("aws_")
        try:
            known = self.blocks_of(module)
        except KeyError:
            return [f"{kind}.{name}: the provider has no such {'data source' if data else 'resource'}"]
        owner = module.replace("_", "")
        # A resource that is called like a block of another one has an A behind its name.
        return _faults(f"{kind}.{name}", body, owner if owner in known else f"{owner}a", known)


def _faults(place: str, body: dict[str, Any], owner: str, known: dict[str, Block]) -> list[str]:
    block = known[owner]
    written = {key for key in body if not key.startswith("__")}
    dynamic = {key: value["content"][0] for one in body.get("dynamic", []) for key, value in one.items()}
    written |= set(dynamic)
    faults = [f"{place}: {key} is not known" for key in written - block.attributes - META]
    faults += [f"{place}: {key} is missing" for key in block.required - written]
    for key, inner in block.blocks.items():
        contents = [dynamic[key]] if key in dynamic else body.get(key, [])
        for content in contents:
            if isinstance(content, dict):
                faults += _faults(f"{place}.{key}", content, inner, known)
    return faults


def _block(node: ast.ClassDef) -> Block:
    functions = [item for item in node.body if isinstance(item, ast.FunctionDef)]
    arguments = next((one.args for one in functions if one.name == "__init__"), None)
    if arguments is None:
        return Block(frozenset(), frozenset(), {})
    named = dict(zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True))
    blocks = {}
    for argument in named:
        # The generator writes the class of a block in quotes, a type of the language without.
        found = re.search(r"'(\w+)'", ast.unparse(argument.annotation)) if argument.annotation else None
        if found:
            blocks[argument.arg.rstrip("_")] = found[1].lower()
    names = {argument.arg.rstrip("_"): default is None for argument, default in named.items()}
    return Block(
        attributes=frozenset(names),
        required=frozenset(name for name, required in names.items() if required),
        blocks=blocks,
    )
