"""Settings as YAML that explains itself: a comment with meaning, range and choices above each key."""

import textwrap
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import yaml
from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from reid_da.config.base import Settings
from reid_da.errors import unknown_name

_WIDTH = 100


def describe_settings(settings: Settings, section: str | None = None) -> str:
    """The settings as YAML with comments; reading it back gives equal settings.

    Args:
        settings: what to describe.
        section: name of one group of settings, such as ``memory``; None for all.

    Raises:
        InputError: there is no such group.
    """
    if section is None:
        return "\n".join(_lines(settings)) + "\n"
    group = getattr(settings, section, None)
    if not isinstance(group, Settings):
        groups = [name for name, value in settings if isinstance(value, Settings)]
        raise unknown_name("section", section, groups)
    return "\n".join([*_comment(type(group).__doc__ or "", ""), f"{section}:", *_lines(group, "  ")]) + "\n"


def _lines(settings: Settings, indent: str = "") -> Iterator[str]:
    values = settings.model_dump(mode="json")
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, Settings):
            yield ""
            yield from _comment((type(value).__doc__ or "").partition("\n")[0], indent)
            yield f"{indent}{name}:"
            yield from _lines(value, indent + "  ")
            continue
        yield from _comment("; ".join(text for text in (field.description, _range(field)) if text), indent)
        yield f"{indent}{name}: {_inline(values[name])}"


def _inline(value: Any) -> str:
    """A value as YAML in one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")


def _comment(text: str, indent: str) -> list[str]:
    prefix = f"{indent}# "
    return textwrap.wrap(text, _WIDTH, initial_indent=prefix, subsequent_indent=prefix)


def _range(field: FieldInfo) -> str:
    """The choices or the range of a field in words, empty if there are none."""
    if get_origin(field.annotation) is Literal:
        choices = get_args(field.annotation)
        return f"one of {', '.join(map(str, choices))}" if len(choices) > 1 else ""
    limits = [text for rule in _rules(field) if (text := _limit(rule))]
    return " and ".join(dict.fromkeys(limits))


def _rules(field: FieldInfo) -> Iterator[Any]:
    yield from field.metadata
    for part in get_args(field.annotation):
        yield from getattr(part, "__metadata__", ())
        for inner in getattr(part, "__metadata__", ()):
            yield from getattr(inner, "metadata", ())


def _limit(rule: Any) -> str:
    for kind, name, text in ((Ge, "ge", "at least"), (Gt, "gt", "above"), (Le, "le", "at most"), (Lt, "lt", "below")):
        if isinstance(rule, kind):
            return f"{text} {getattr(rule, name):g}"
    return ""
