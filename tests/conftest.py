"""Shared settings of the tests: one thread each, quick property tests, small data sets."""

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from torch import Tensor
from torch.nn import functional

from reid_da.config import ExperimentSettings
from reid_da.methods import settings_of
from reid_da.models.bfloat16 import forget_comparisons

torch.set_num_threads(1)
settings.register_profile("default", deadline=None, max_examples=50)
settings.load_profile("default")

RENDERED = Path(__file__).parent.parent / "data" / "rendered"
NUM_IDENTITIES = 5


@pytest.fixture(autouse=True)
def same_random_weights() -> None:
    """Give every test the same global random numbers, in whatever order and on whatever worker it runs."""
    torch.manual_seed(0)
    # commands switch the log on, which is no concern of other tests
    logging.getLogger("reid_da").setLevel(logging.NOTSET)


class Kernels:
    """Convolutions under bfloat16 autocast, made right or wrong whatever the processor makes of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._conv2d = functional.conv2d

    def right(self, inputs: Tensor, weight: Tensor, *options: object) -> Tensor:
        """A convolution that under autocast rounds inputs, weights and result to bfloat16, and nothing between."""
        if not torch.is_autocast_enabled("cpu"):
            return self._conv2d(inputs, weight, *options)
        with torch.autocast("cpu", enabled=False):
            return self._conv2d(inputs.bfloat16().float(), weight.bfloat16().float(), *options).bfloat16()

    def use(self, conv2d: Callable[..., Tensor]) -> None:
        """Let all layers compute with ``conv2d``; what was found out about another one is forgotten."""
        forget_comparisons()
        self._monkeypatch.setattr(functional, "conv2d", conv2d)

    def spoil(self, where: Callable[[Tensor, Tensor], bool], fault: float) -> None:
        """Add ``fault`` to every second channel in bfloat16, for the inputs and weights that ``where`` says."""

        def spoilt(inputs: Tensor, weight: Tensor, *options: object) -> Tensor:
            maps = self.right(inputs, weight, *options)
            if torch.is_autocast_enabled("cpu") and where(inputs, weight):
                maps = maps + fault * (torch.arange(maps.shape[1]) % 2).view(-1, 1, 1)
            return maps

        self.use(spoilt)


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernels]:
    """Convolutions to be made right or wrong in bfloat16, in this test alone."""
    yield Kernels(monkeypatch)
    forget_comparisons()


@pytest.fixture(scope="session")
def rendered() -> Path:
    """Folder of the rendered data set that ships with the project."""
    return RENDERED


@pytest.fixture(scope="session")
def small_sites(rendered: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``site-a`` and ``site-b``: the first few people of the rendered sites."""
    root = tmp_path_factory.mktemp("sites")
    for site in ("site-a", "site-b"):
        for split in ("bounding_box_train", "query", "bounding_box_test"):
            files = sorted((rendered / site / split).glob("[0-9]*.jpg"))
            people = sorted({file.name[:4] for file in files} - {"0000"})[:NUM_IDENTITIES]
            (root / site / split).mkdir(parents=True)
            for file in files:
                if file.name[:4] in people:
                    shutil.copy(file, root / site / split)
    return root


@pytest.fixture(scope="session")
def small_tree(small_sites: Path) -> dict[str, Any]:
    """Settings of ECN from site-a to site-b with a tiny input, two epochs, all three invariances, as a mapping."""
    return {
        "epochs": 2,
        "evaluate_every": 1,
        "device": "cpu",
        "data": {"source": str(small_sites / "site-a"), "target": str(small_sites / "site-b"), "image_size": [32, 16]},
        "model": {
            "backbone": "resnet18",
            "width": 0.125,
            "weights": "none",
            "embedding_dim": 32,
            "freeze": "none",
            "bn_mode": "train",
        },
        "batch": {"source": 8, "target": 8},
        "steps_per_epoch": 3,
        "memory": {"neighbors_from_epoch": 1, "num_neighbors": 3},
        "views": {"style": "statistics"},
        "optimizer": {"lr": 0.01},
    }


@pytest.fixture
def small_settings(small_tree: dict[str, Any]) -> ExperimentSettings:
    """The settings of :func:`small_tree`."""
    return settings_of(small_tree, where="test")
