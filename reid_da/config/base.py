"""Settings in general: frozen classes, read from layers of YAML and overrides, compared leaf by leaf."""

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, PrivateAttr, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from reid_da.errors import InputError, unknown_name
from reid_da.presets import settings_file
from reid_da.yaml_files import parse_yaml, read_yaml

Layer: TypeAlias = tuple[str, Mapping[str, Any]]
"""Where some settings come from, and their keys and values."""

_MAX_FILES = 100
"""Most files that an experiment is put together of."""

Overrides: TypeAlias = Sequence[str] | Mapping[str, Any]
"""Changes of settings: texts ``memory.temperature=0.1``, or a mapping with dotted or nested keys."""

COMMAND_LINE = "command line"
"""Where overrides in the form of texts come from."""
OVERRIDES = "overrides"
"""Where those in a mapping come from."""

FREE: dict[str, Any] = {"free": True}
"""Marks a field (``json_schema_extra``) that may differ between the two halves of a resumed run."""


class Settings(BaseModel):
    """Base of all settings: unknown keys are errors, values cannot be changed, numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        is_switch = info.field_name is not None and bool in _plain_types(cls.model_fields[info.field_name].annotation)
        values = value if isinstance(value, (list, tuple)) else [value]
        if not is_switch and any(isinstance(entry, bool) for entry in values):
            raise ValueError("true and false are valid for boolean settings only")
        return value


class RunSettings(Settings):
    """Base of the settings of a whole run, which one key, ``method``, tells the class of."""

    _unused: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def tree(self) -> dict[str, Any]:
        """The settings as nested mappings of plain values, with keys of other methods that their file had too."""
        return merge(self._unused, self.model_dump(mode="json"))

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.model_dump() == other.model_dump()

    __hash__ = None  # type: ignore[assignment]


S = TypeVar("S", bound=RunSettings)


@dataclass(frozen=True, kw_only=True)
class Family(Generic[S]):
    """Settings classes that are read by one loader; the key ``method`` says which one.

    A file may serve several methods: keys of another method of the family are checked, and left out.

    Attributes:
        kinds: the classes by the name of their method.
        default: method of a file that names none.
        command: lists the settings, for error messages.
        example: an override, for error messages.
    """

    kinds: Mapping[str, type[S]]
    default: str
    command: str
    example: str

    def load(self, config: str | Path | Mapping[str, Any] | None, overrides: Overrides = ()) -> S:
        """Settings of a YAML file, of the files that it is based on, and of the overrides, in rising priority.

        Args:
            config: YAML file, name of a preset, a mapping with its keys and values, or None for the defaults; the key
                ``base`` of a file names a preset or a file, relative to it, whose settings it changes, or several, of
                which later ones change earlier ones.
            overrides: ``memory.temperature=0.1`` and the like, whose values are read as YAML; or a mapping.

        Raises:
            InputError: a file cannot be read, a key is unknown (the nearest valid one is named), a value is out of
                range.
        """
        if isinstance(config, Mapping):
            layers: list[Layer] = [("config", nested(config))]
        else:
            layers = [] if config is None else _read_layers(settings_file(config))
        return self._of_layers([*layers, *self.changes(overrides)])

    def of(self, tree: Mapping[str, Any], *, where: str) -> S:
        """Settings of nested mappings.

        Args:
            tree: keys and values.
            where: what they come from, for error messages.

        Raises:
            InputError: a key is unknown or a value does not fit.
        """
        return self._of_layers([(where, tree)])

    def changes(self, overrides: Overrides) -> list[Layer]:
        """The layers that overrides make.

        Raises:
            InputError: a text is not of the form ``key=value``, or its value is not YAML.
        """
        if isinstance(overrides, Mapping):
            return [(OVERRIDES, nested(overrides))]
        return [(COMMAND_LINE, self.override(text)) for text in overrides]

    def override(self, text: str) -> dict[str, Any]:
        """The tree of ``key=value``.

        Raises:
            InputError: it is not of this form, or the value is not YAML.
        """
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise InputError(f"{text!r} should be key=value, for example {self.example}")
        return nested({key: parse_yaml(value, where=repr(text))})

    def stage(self, settings: S) -> S | None:
        """Settings of the pretraining stage, None without one.

        They are the settings of the run with the changes of its key ``pretrain``: a change of the data or the seed
        holds for both. The stage has one before it if these changes have a key ``pretrain`` themselves.

        Raises:
            InputError: a key of ``pretrain`` is unknown or a value does not fit.
        """
        changes = getattr(settings, "pretrain", None)
        if changes is None:
            return None
        name = f"{getattr(settings, 'name', '')}-pretrain"
        tree = merge(settings.tree, {"method": "source", "name": name, **changes, "pretrain": None})
        return self.of({**tree, "pretrain": changes.get("pretrain")}, where="pretrain")

    def kind(self, method: object) -> type[S]:
        """The settings class of a method.

        Raises:
            InputError: there is no such method.
        """
        if not isinstance(method, str) or method not in self.kinds:
            raise unknown_name("method", str(method), self.kinds)
        return self.kinds[method]

    def _of_layers(self, layers: Sequence[Layer]) -> S:
        """The settings that layers make, later ones before earlier ones; an error names the layer to blame."""
        kind = self.kind(_together(layers).get("method", self.default))
        used, unused = {}, {}
        for where, tree in layers:
            for keys, value in leaves(tree):
                if is_known(kind, keys) or (keys[0] == "pretrain" and is_known(kind, keys[:1])):
                    used[keys] = value
                    self._check_stage_key(keys, where)
                else:
                    self._check_foreign(keys, value, where, method=kind.model_fields["method"].default)
                    unused[keys] = value
        # a method's optimiser may have defaults of its own, which stay where only some of its settings are given
        settings = validated(kind, [("defaults", kind().model_dump(mode="json")), *_only(layers, used)])
        settings._unused = tree_of(unused)
        self.stage(settings)
        return settings

    def _check_stage_key(self, keys: tuple[str, ...], where: str) -> None:
        own = tuple(itertools.dropwhile(lambda key: key == "pretrain", keys))
        if own != keys and own and not self._owner(own):
            raise self._unknown(keys, where, prefix="pretrain." * (len(keys) - len(own)))

    def _check_foreign(self, keys: tuple[str, ...], value: Any, where: str, *, method: str) -> None:
        """Check a key that the method has not: it must be another method's, and its value must fit there."""
        owner = self._owner(keys)
        if owner is None:
            raise self._unknown(keys, where)
        if where in (COMMAND_LINE, OVERRIDES):
            other, key = owner.model_fields["method"].default, ".".join(keys)
            same = sorted(".".join(name) for name in setting_keys(self.kinds[method]) if name[-1] == keys[-1])
            hint = f"has {same[0]}" if same else "has none"
            raise InputError(f"{where}: {key} is a setting of method {other}; method {method} {hint}")
        validated(owner, [(where, tree_of({keys: value}))])

    def _owner(self, keys: tuple[str, ...]) -> type[S] | None:
        return next((kind for kind in self.kinds.values() if is_known(kind, keys) and keys != ("pretrain",)), None)

    def _unknown(self, keys: tuple[str, ...], where: str, *, prefix: str = "") -> InputError:
        """Error for an unknown key, with the nearest valid one: by the whole key, else by its last part."""
        known = {".".join(name) for kind in self.kinds.values() for name in setting_keys(kind)}
        known = {prefix + name for name in known if not prefix or name != "pretrain"}
        key = ".".join(map(str, keys))
        same = sorted(name for name in known if name.rpartition(".")[2] == str(keys[-1]))
        if same:
            return InputError(f"{where}: unknown key {key!r} (did you mean {same[0]!r}?)")
        hint = str(unknown_name("key", key, known)).partition("; valid")[0]
        return InputError(f"{where}: {hint}; `{self.command}` lists the valid ones")


def dump_settings(settings: Settings) -> str:
    """The settings as YAML, every key spelled out; reading it back gives equal settings.

    Keys of other methods are kept where there is a pretraining stage, which may be of one of them.
    """
    has_stage = getattr(settings, "pretrain", None) is not None
    tree = settings.tree if isinstance(settings, RunSettings) and has_stage else settings.model_dump(mode="json")
    return yaml.safe_dump(tree, sort_keys=False)


def merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the values of ``change``; mappings are merged, everything else is replaced."""
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def nested(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with dotted keys, as on the command line, nested: ``{"a.b": 1}`` becomes ``{"a": {"b": 1}}``."""
    whole: dict[str, Any] = {}
    for key, value in tree.items():
        entry = nested(value) if isinstance(value, Mapping) else value
        keys = tuple(key.split(".")) if isinstance(key, str) else (key,)
        whole = merge(whole, tree_of({keys: entry}))
    return whole


def leaves(tree: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value of nested mappings that is not itself a mapping with keys, and the keys that lead to it."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, (*prefix, key))
        else:
            yield (*prefix, key), value


def tree_of(values: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """Nested mappings of leaves; the opposite of :func:`leaves`."""
    tree: dict[str, Any] = {}
    for keys, value in values.items():
        entry = value
        for key in reversed(keys):
            entry = {key: entry}
        tree = merge(tree, entry)
    return tree


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], *, kind: type[Settings], free: bool = False
) -> dict[str, tuple[Any, Any]]:
    """Values of the settings that differ in two trees, by their dotted keys; keys that are absent have their defaults.

    Args:
        old: the settings as they were noted.
        new: the settings as they are.
        kind: their class, for the defaults and for what may differ.
        free: whether to tell of the settings, too, that do not decide the numbers of a run.
    """
    defaults = dict(leaves(kind().model_dump(mode="json")))
    first, second = ({**defaults, **dict(leaves(tree))} for tree in (old, new))
    return {
        ".".join(keys): (first.get(keys), second.get(keys))
        for keys in first | second
        if first.get(keys) != second.get(keys) and (free or not is_free(kind, keys))
    }


def is_known(kind: type[Settings], keys: Sequence[str]) -> bool:
    """Whether a class has a setting, or a group of settings, at a path of keys."""
    field = kind.model_fields.get(keys[0])
    if field is None:
        return False
    group = _group(field)
    return len(keys) == 1 or (group is not None and is_known(group, keys[1:]))


def is_free(kind: type[Settings], keys: Sequence[str]) -> bool:
    """Whether the setting at a path of keys does not decide the numbers of a run."""
    field = kind.model_fields.get(keys[0])
    if field is None:
        return False
    if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("free"):
        return True
    group = _group(field)
    return len(keys) > 1 and group is not None and is_free(group, keys[1:])


def setting_keys(kind: type[Settings], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of keys of all settings of a class, and of its groups of settings."""
    for name, field in kind.model_fields.items():
        yield (*prefix, name)
        group = _group(field)
        if group is not None:
            yield from setting_keys(group, (*prefix, name))


def validated(kind: type[S], layers: Sequence[Layer]) -> S:
    """The settings that layers of known keys make; an error names the layer to blame.

    Raises:
        InputError: a value does not fit.
    """
    try:
        return kind.model_validate(_together(layers))
    except ValidationError as error:
        first = error.errors()[0]
        where = next((where for where, tree in reversed(layers) if _sets(tree, first["loc"])), layers[-1][0])
        key = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{where}: {key}: {_reason(first)}, got {first['input']!r}") from error


def _together(layers: Sequence[Layer]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for _, layer in layers:
        tree = merge(tree, layer)
    return tree


def _only(layers: Sequence[Layer], used: Mapping[tuple[str, ...], Any]) -> list[Layer]:
    """The layers without the leaves that are not used."""
    return [(where, tree_of({keys: value for keys, value in leaves(tree) if keys in used})) for where, tree in layers]


def _group(field: FieldInfo) -> type[Settings] | None:
    """The class of a field that is a group of settings, None for a plain value."""
    kind = field.annotation
    # Python 3.10 takes tuple[int, int] for a class, but not for an argument of issubclass
    return kind if get_origin(kind) is None and isinstance(kind, type) and issubclass(kind, Settings) else None


def _plain_types(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) or (annotation,)


def _reason(error: Mapping[str, Any]) -> str:
    if error["type"] == "model_type":
        return "Input should be keys and values, such as {key: value}"
    return str(error["msg"]).removeprefix("Value error, ")


def _sets(tree: Any, keys: Sequence[int | str]) -> bool:
    """Whether a tree has a value at a path of keys, or at the beginning of the path."""
    for key in keys:
        if not isinstance(tree, Mapping):
            return True
        if key not in tree:
            return False
        tree = tree[key]
    return True


def _read_layers(file: Path, *, deriving: tuple[Path, ...] = (), read: list[Path] | None = None) -> list[Layer]:
    """The settings of the files that a file is based on, and its own after them.

    Args:
        file: YAML file.
        deriving: files that are based on it, the nearest last.
        read: files that have been read, to which it is added; a file counts as often as others are based on it.
    """
    read = [] if read is None else read
    read.append(file)
    if len(read) > _MAX_FILES:
        raise InputError(f"{read[0]}: has more than {_MAX_FILES} base files, counting repetitions")
    # realpath: resolve() of Python 3.12 raises where links lead in a circle
    if os.path.realpath(file) in [os.path.realpath(path) for path in deriving]:
        raise InputError(f"{file}: circular base")
    tree = read_yaml(file, named_by=f"{deriving[-1]}: base: " if deriving else "")
    base = tree.pop("base", None)
    layers = []
    for name in base if isinstance(base, list) else [] if base is None else [base]:
        if not isinstance(name, str):
            raise InputError(f"{file}: base: expected the name of a YAML file, got {name!r}")
        layers += _read_layers(settings_file(name, file.parent), deriving=(*deriving, file), read=read)
    return [*layers, (str(file), nested(tree))]
