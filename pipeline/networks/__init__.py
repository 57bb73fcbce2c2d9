"""Networks by name. The catalogue has a file for each; `monai:<Class>` is any of MONAI's.

What may be chosen is read off the files: none is imported before its network is built.
"""

import ast
import functools
import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.errors import ParamsError
from pipeline.networks.compositions import NAMED, nearest

if TYPE_CHECKING:
    from pipeline.networks.base import Index, Network

CATALOGUE = Path(__file__).with_name("catalogue")
MONAI = "monai:"
"""Before the name of a class of `monai.networks.nets`."""
Options = Mapping[str, Any]


def names() -> list[str]:
    """The networks of the catalogue."""
    return sorted(file.stem for file in CATALOGUE.glob("*.py") if file.stem != "__init__")


@functools.cache
def options_of(name: str) -> dict[str, str] | None:
    """What a network of the catalogue can be told by keyword, with its type; None: whatever its class takes.

    Read off the text of its file, which imports nothing.
    """
    tree = ast.parse((CATALOGUE / f"{name}.py").read_text(encoding="utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    chosen = next(
        node.value.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id == "NETWORK"
        and isinstance(node.value, ast.Name)
    )
    for node in classes[chosen].body if chosen in classes else ():
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            taken = {one.arg: ast.unparse(one.annotation) for one in node.args.kwonlyargs if one.annotation}
            return None if node.args.kwarg else taken
    return None


def _not_of_its_type(value: Any, annotation: str) -> str | None:
    """What a value of an option should be, if it is not; a type that only its network knows is left to it."""
    from pydantic import TypeAdapter, ValidationError

    known = {"Literal": Literal, "Sequence": Sequence, "float": float, "int": int, "bool": bool, "str": str}
    try:
        # The text is that of a file of the catalogue.
        expected = eval(annotation, {"__builtins__": {}}, known)
    except NameError:
        return None
    try:
        TypeAdapter(expected).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = "".join(f"element {part}: " for part in first["loc"])
        return place + first["msg"].replace("Input should", "it should")
    return None


@functools.cache
def monai_names() -> tuple[str, ...]:
    """What `monai.networks.nets` has, networks and others; nothing where MONAI is not installed.

    Read off the text of its file, too.
    """
    found = importlib.util.find_spec("monai")
    if found is None or found.origin is None:
        return ()
    nets = Path(found.origin).with_name("networks") / "nets" / "__init__.py"
    body = ast.parse(nets.read_text(encoding="utf-8")).body
    imports = [node for node in body if isinstance(node, ast.ImportFrom) and node.level]
    return tuple(each.name for node in imports for each in node.names)


def no_network_of_monai(name: str) -> str:
    """What is said of a class that MONAI does not have."""
    # No functions; and of names that differ in capitals alone, which some classes have, the first.
    known = {each.casefold(): each for each in reversed(monai_names()) if each[0].isupper()}
    there = sorted(known.values())
    return f"MONAI has no network '{name}'{nearest(name, there)}. It has: {', '.join(there)}"


def check(name: str, options: Options) -> None:
    """Refuse a network that is not there, and an option that it does not take or a value of another type.

    Raises:
        ValueError: saying what there is, or what an option should be.
    """
    if name.startswith(MONAI):
        wanted, there = name.removeprefix(MONAI), monai_names()
        if there and wanted not in there:
            raise ValueError(no_network_of_monai(wanted))
        return
    if name in NAMED:
        raise ValueError(f"'{name}' is a composition of networks, which has no place here: name one network")
    if name not in names():
        near = nearest(name, [*names(), *NAMED])
        raise ValueError(
            f"there is no network '{name}'{near}. There is: {', '.join(names())}; composed: "
            f"{', '.join(NAMED)}; and {MONAI}<Class> of monai.networks.nets"
        )
    known = options_of(name)
    if known is None:
        return
    for option, value in options.items():
        if option not in known:
            which = f"the network '{name}' has no '{option}'{nearest(option, list(known))}"
            raise ValueError(f"{which}. It has: {', '.join(known)}")
        said = None if value == "auto" else _not_of_its_type(value, known[option])
        if said:
            raise ValueError(f"{option} of the network '{name}' is {value!r}: {said}")


def network_class(name: str) -> "type[Network]":
    """The class of the network called `name`.

    Raises:
        ParamsError: there is none.
    """
    if name.startswith(MONAI):
        from pipeline.networks.from_monai import wrapped

        return wrapped(name.removeprefix(MONAI))
    try:
        check(name, {})
    except ValueError as error:
        raise ParamsError(str(error)) from None
    network: type[Network] = importlib.import_module(f"pipeline.networks.catalogue.{name}").NETWORK
    return network


def plan_network(
    name: str, options: Options, patch_size: "Index", spacing: Sequence[float], *, small: bool
) -> dict[str, Any]:
    """All options of a network for these data, those in `options` as they are.

    Args:
        name: of the network.
        options: as `train.network` gives them; those that are `auto` are planned.
        patch_size: (z, y, x) voxels.
        spacing: (z, y, x) millimetres.
        small: the profile is that for few CPU cores.

    Raises:
        ParamsError: there is no such network, or no plan with these options.
    """
    given = {key: value for key, value in options.items() if value != "auto"}
    network = network_class(name)
    try:
        return network.plan(given, patch_size, spacing, small)
    except (TypeError, ValueError) as error:
        raise _cannot_be_built(name, given, error) from error


def build_network(name: str, in_channels: int, classes: int, options: Options) -> "Network":
    """Build a network, its weights drawn from torch's generator.

    Args:
        name: of the network.
        in_channels: of the image.
        classes: of the logits, background included.
        options: as `plan_network` returned them.

    Raises:
        ParamsError: it cannot be built with these options.
    """
    try:
        network = network_class(name)(in_channels, classes, **options)
    except (TypeError, ValueError, ImportError) as error:
        raise _cannot_be_built(name, options, error) from error
    from torch.nn.modules.dropout import _DropoutNd

    for module in network.modules():
        if isinstance(module, _DropoutNd) and module.p >= 1:
            nothing = ValueError(f"a dropout of {module.p:g} leaves nothing to learn from; it is below 1")
            raise _cannot_be_built(name, options, nothing)
        # A count of batches serves a momentum that none of them uses; a model's file holds no integers.
        if getattr(module, "num_batches_tracked", None) is not None:
            module.register_buffer("num_batches_tracked", None)
    return network


def _cannot_be_built(name: str, options: Options, error: Exception) -> ParamsError:
    given = ", ".join(f"{key}={value!r}" for key, value in options.items()) or "no options"
    # What a package says that MONAI lacks goes on for lines.
    reason = str(error).partition("\n")[0]
    return ParamsError(f"the network '{name}' cannot be built with {given}: {reason}")
