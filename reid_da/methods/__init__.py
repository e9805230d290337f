"""Training methods: one file each, found by being here.

A file of this folder whose name does not begin with an underscore may define methods: subclasses of
:class:`~reid_da.methods.protocol.Method` with a settings class of their own.
"""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from reid_da.config import ExperimentSettings, Family, Overrides
from reid_da.methods.protocol import Method


def _found() -> dict[str, type[Method]]:
    """The methods of this folder by name."""
    methods = {}
    for found in iter_modules(__path__, f"{__name__}."):
        if found.name.rpartition(".")[2].startswith("_"):
            continue
        for entry in vars(import_module(found.name)).values():
            is_method = isinstance(entry, type) and issubclass(entry, Method) and entry.__module__ == found.name
            if is_method and "Settings" in vars(entry):
                methods[entry.Settings.model_fields["method"].default] = entry
    return dict(sorted(methods.items()))


METHODS: Mapping[str, type[Method]] = _found()
"""Every method by the name that the setting ``method`` takes."""

EXPERIMENTS: Family[ExperimentSettings] = Family(
    kinds={name: method.Settings for name, method in METHODS.items()},
    default="ecn",
    command="reid-da settings",
    example="memory.temperature=0.1",
)
"""The settings of experiments."""


def load_settings(config: str | Path | Mapping[str, Any] | None, overrides: Overrides = ()) -> ExperimentSettings:
    """Settings of an experiment; see :meth:`reid_da.config.Family.load`."""
    return EXPERIMENTS.load(config, overrides)


def settings_of(tree: Mapping[str, Any], *, where: str) -> ExperimentSettings:
    """Settings of nested mappings; see :meth:`reid_da.config.Family.of`."""
    return EXPERIMENTS.of(tree, where=where)
