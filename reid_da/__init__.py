"""reid-da: unsupervised domain adaptation for person re-identification.

What most users need is here: :func:`load` a model, :func:`fit` one, put it into a tracker; see ``docs/api.md``. The
names are imported when they are first used, so that ``import reid_da`` and ``reid-da --help`` do not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_MODULES = {
    "InputError": "errors",
    "Model": "api",
    "RerankSettings": "evaluation",
    "Run": "api",
    "SearchResult": "api",
    "TrackerExtractor": "tracker",
    "center_cameras": "centering",
    "evaluate_retrieval": "evaluation",
    "fit": "api",
    "load": "api",
    "load_dataset": "datasets",
}
"""The public names, and where they are."""

if TYPE_CHECKING:
    from reid_da.api import Model as Model
    from reid_da.api import Run as Run
    from reid_da.api import SearchResult as SearchResult
    from reid_da.api import fit as fit
    from reid_da.api import load as load
    from reid_da.centering import center_cameras as center_cameras
    from reid_da.datasets import load_dataset as load_dataset
    from reid_da.errors import InputError as InputError
    from reid_da.evaluation import RerankSettings as RerankSettings
    from reid_da.evaluation import evaluate_retrieval as evaluate_retrieval
    from reid_da.tracker import TrackerExtractor as TrackerExtractor
else:

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
