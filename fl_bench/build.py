"""From a config node with a `_target_` to the thing itself, with errors that name the user's key."""

import inspect
import math
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from typing import Any, TypeVar

from hydra._internal.utils import _locate  # what get_object does, which says on stderr too what it raises
from omegaconf import DictConfig, OmegaConf
from pydantic import ConfigDict, InstanceOf, TypeAdapter, ValidationError

from fl_bench.errors import ConfigError

T = TypeVar("T")

# Strict: a yaml string is no number. Arbitrary types: Flower's own classes among the arguments pass as they are.
STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True)


def build(node: DictConfig, base: type[T], **given: Any) -> T:
    """Call what `node._target_` names with the node's other entries and with `given`, see `call`: an object of `base`.

    Raises ConfigError where it is neither a class derived from `base` nor a function that declares to return one.
    """
    target = find_target(node)
    kind = typing.get_type_hints(target).get("return") if inspect.isroutine(target) else target
    if base is not object and not (inspect.isclass(kind) and issubclass(kind, base)):
        wish = f"must name a class derived from {base.__name__}, or a function that returns one (-> {base.__name__})"
        raise ConfigError(f"{path(node)}._target_={node._target_}: {wish}")
    return typing.cast(T, call(target, node, **given))


def call(target: Callable[..., Any], node: DictConfig, skip: Sequence[str] = ("_target_",), **given: Any) -> Any:
    """Call `target` with the entries of `node` but for those of `skip`, and with `given`.

    Nodes below that have a `_target_` are built first, but for an argument that the target declares as DictConfig: it
    gets the node, for what can be built later only. Raises ConfigError where a value does not fit the
    type that the target's signature declares, or where the target itself cannot take it.
    """
    arguments: dict[str, Any] = {}
    for name in (str(name) for name in node if str(name) not in skip):
        value = node[name]
        if isinstance(value, DictConfig) and _hints(target).get(name) is DictConfig:
            arguments[name] = value
        elif isinstance(value, DictConfig) and "_target_" in value:
            arguments[name] = build(value, object)
        else:
            arguments[name] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    _check_arguments(target, arguments, node, given)
    try:
        return target(**arguments, **given)
    except (ValueError, TypeError, ArithmeticError) as error:
        text = " ".join(str(error).split())
        name = text.partition("=")[0]  # where it says which of its arguments it is about, that is a key
        raise ConfigError(
            f"{path(node, name)}={text[len(name) + 1 :]}" if name in node else f"{path(node)}: {text}"
        ) from error


def find_target(node: DictConfig) -> Callable[..., Any]:
    """What `node._target_` names; a ConfigError where there is no such thing."""
    name = node.get("_target_")
    try:
        found = _locate(name) if isinstance(name, str) else None
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{path(node)}._target_={name}: {' '.join(str(error).split())}") from error
    if not callable(found):
        raise ConfigError(f"{path(node)}._target_={name}: must name a class or a function")
    return typing.cast(Callable[..., Any], found)


def path(node: DictConfig, name: str = "") -> str:
    """The key of `node`, or of its entry `name`; of the entry it points to where that is an interpolation."""
    full = ".".join(filter(None, (node._get_full_key(None), name)))
    raw = OmegaConf.to_container(node, resolve=False).get(name) if name else None  # type: ignore[union-attr]
    if isinstance(raw, str) and raw.startswith("${") and raw.count("$") == 1:
        pointer = raw[2:-1]
        target = pointer.lstrip(".")
        levels = len(pointer) - len(target)
        return ".".join([*full.split(".")[:-levels], target]) if levels else pointer
    return full


def nearest(name: str, known: Iterable[str]) -> str:
    """A helpful tail for an error about an unknown `name`."""
    known = sorted(known)
    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}" if known else "there are none"


def positive(**keys: int) -> None:
    """Raise ValueError, which `call` says of the key, where one of them is not."""
    for key, value in keys.items():
        if value < 1:
            raise ValueError(f"{key}={value}: must be 1 or more")


def not_negative(**keys: float) -> None:
    """Raise ValueError, which `call` says of the key, where one of them is, or is no finite number."""
    for key, value in keys.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{key}={value}: must be a number from 0")


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)  # type: ignore[misc]


def _check_arguments(
    target: Callable[..., Any], arguments: Mapping[str, Any], node: DictConfig, given: Mapping[str, Any]
) -> None:
    try:
        parameters = inspect.signature(target).parameters
    except ValueError as error:  # some of what is written in C
        raise ConfigError(f"{path(node)}._target_={node.get('_target_')}: does not say what it takes") from error
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    hints = _hints(target)
    for name, value in arguments.items():
        if name in given or (name not in parameters and not open_ended):
            raise ConfigError(f"{path(node, name)}: unknown key; {nearest(name, set(parameters) - set(given))}")
        hint = hints.get(name, Any)
        adapter = TypeAdapter(InstanceOf[hint]) if is_dataclass(hint) else TypeAdapter(hint, config=STRICT)  # type: ignore
        try:
            adapter.validate_python(value)
        except ValidationError as error:
            wishes = dict.fromkeys(
                f"a list, such as [{value}]" if detail["type"] == "sequence_str"
                else detail["msg"].removeprefix("Input should be ")
                for detail in error.errors()
            )  # fmt: skip
            raise ConfigError(f"{path(node, name)}={value}: should be {' or '.join(wishes)}") from error
    missing = [n for n, p in parameters.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    if lacking := set(missing) - set(arguments) - set(given):
        raise ConfigError(f"{path(node)}: needs {', '.join(sorted(lacking))}")
