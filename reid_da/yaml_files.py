"""YAML that people have written: by safe loading, with limits, and without keys that silently replace each other."""

import os
from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, ScalarEvent

from reid_da.errors import InputError
from reid_da.reading import UnsuitableFileError, read_error, read_regular

if TYPE_CHECKING or not yaml.__with_libyaml__:
    from yaml import SafeLoader as _SafeLoader
else:
    # on top of libyaml: ten times as fast
    from yaml import CSafeLoader as _SafeLoader

MAX_BYTES = 2**18
"""Largest size of a YAML file."""
MAX_DEPTH = 50
"""Deepest nesting of lists and mappings."""
MAX_VALUES = 20_000
"""Most values, those counted that an alias repeats."""
MAX_DIGITS = 400
"""Longest text of a value that is not a string, such as a number."""

_STRING = "tag:yaml.org,2002:str"


def read_yaml(path: str | os.PathLike[str], *, named_by: str = "") -> dict[str, Any]:
    """Keys and values of a YAML file; an empty one has none.

    Args:
        path: the file.
        named_by: what stands before the path if it cannot be read, such as the file that names it.

    Raises:
        InputError: it cannot be read, is no regular file, larger than :data:`MAX_BYTES`, not UTF-8, no mapping, or as
            :func:`parse_yaml`.
    """
    file = Path(path)
    try:
        content = read_regular(file, limit=MAX_BYTES)
    except (OSError, UnsuitableFileError) as error:
        reason = read_error(file, error)
        verb = "cannot be read: " if isinstance(error, OSError) else ""
        raise InputError(f"{named_by}{file}: {verb}{reason.removeprefix(f'{file}: ')}") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: is not YAML: {error}") from error
    tree = parse_yaml(text, where=str(file))
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise InputError(f"{file}: expected keys and values, found a {type(tree).__name__}")
    return tree


def parse_yaml(text: str, *, where: str) -> Any:
    """The value of a YAML text: mappings, lists, strings, numbers, booleans, dates or None.

    Args:
        text: one document.
        where: what begins the message of an error, such as the name of the file.

    Raises:
        InputError: it is not YAML, a mapping has a key twice, a value has too many digits, or it is too deep, too large
            with its aliases repeated, or within itself.
    """
    try:
        _check_events(text)
        return yaml.load(text, Loader=_Loader)
    except _LimitError as error:
        raise InputError(f"{where}: {error}") from error
    except yaml.YAMLError as error:
        raise InputError(f"{where}: is not YAML: {_one_line(error)}") from error
    # a date such as 2020-02-31; PyYAML answers tags such as !!bool on the wrong text with errors of any type
    except Exception as error:
        raise InputError(f"{where}: a value cannot be read: {_one_line(error)}") from error


class _LimitError(Exception):
    """A text that is YAML but not acceptable; says why."""


class _Loader(_SafeLoader):
    """The safe loader, which for a repeated key takes the last value, but with an error for that."""

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[Hashable, Any]:
        lines: dict[Hashable, int] = {}
        if not isinstance(node, yaml.MappingNode):
            raise yaml.constructor.ConstructorError(None, None, "expected a mapping", node.start_mark)
        for key_node, _ in node.value:
            # a merge key must not be constructed, and may stand beside another one no more than any key
            is_merge = key_node.tag == "tag:yaml.org,2002:merge"
            key = (_Loader, "<<") if is_merge else self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                break  # which the loader reports
            line = key_node.start_mark.line + 1
            if key in lines:
                shown = "<<" if is_merge else key
                raise _LimitError(f"line {line}: duplicate key {shown}, first in line {lines[key]}; remove one")
            lines[key] = line
        return super().construct_mapping(node, deep=deep)


def _check_events(text: str) -> None:
    """Look at a text as a stream, before anything is built of it.

    Raises:
        _LimitError: a limit is exceeded.
        yaml.YAMLError: it is not YAML.
    """
    sizes: dict[str, int] = {}  # values in each anchor that is complete
    open_anchors: list[tuple[str | None, int]] = []  # anchor of each collection around, and the count before it
    count = 0
    for event in yaml.parse(text, Loader=_SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_anchors):
                raise _LimitError(f"line {line}: *{event.anchor} contains itself")
            count += sizes.get(str(event.anchor), 0)
        elif isinstance(event, ScalarEvent):
            count += 1
            _check_scalar(event, line)
            if event.anchor is not None:
                sizes[event.anchor] = 1
        elif isinstance(event, CollectionStartEvent):
            open_anchors.append((event.anchor, count))
            count += 1
        elif isinstance(event, CollectionEndEvent):
            anchor, before = open_anchors.pop()
            if anchor is not None:
                sizes[anchor] = count - before
        if len(open_anchors) > MAX_DEPTH:
            raise _LimitError(f"line {line}: is nested more than {MAX_DEPTH} levels deep")
        if count > MAX_VALUES:
            raise _LimitError(f"line {line}: has more than {MAX_VALUES:,} values, repeated by aliases or not")


def _check_scalar(event: ScalarEvent, line: int) -> None:
    is_string = (event.tag is None and not event.implicit[0]) or event.tag == _STRING
    if len(event.value) > MAX_DIGITS and not is_string and not any(character.isspace() for character in event.value):
        resolver = yaml.resolver.Resolver()
        tag = event.tag or resolver.resolve(yaml.ScalarNode, event.value, event.implicit)  # type: ignore[no-untyped-call]
        if tag != _STRING:
            raise _LimitError(
                f"line {line}: a value of {len(event.value):,} characters, {event.value[:20]}..., is too long"
            )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
