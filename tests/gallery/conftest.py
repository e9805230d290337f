"""A small index of rendered people, made once; tests that write get copies."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_galleries import card

from reid_da.gallery.embedder import Embedder, IndexMeans, load_embedder
from reid_da.gallery.identities import split
from reid_da.gallery.index import add, find_images
from reid_da.gallery.store import create
from reid_da.gallery.threshold import Point, Thresholds, save
from reid_da.models import create_backbone


@pytest.fixture(scope="session")
def weights_file(tmp_path_factory):
    """Random weights of a small network in a file, so that each process loads the same ones."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "osnet.pth"
    torch.save(create_backbone("osnet_x0_25", weights="none", image_size=(32, 16)).state_dict(), file)
    return file


@pytest.fixture(scope="session")
def embedder(weights_file) -> Embedder:
    return load_embedder(weights_file, backbone="osnet_x0_25", image_size=(32, 16), device="cpu")


@pytest.fixture(scope="session")
def centering(embedder) -> Embedder:
    """The same with means of the cameras 1 and 2, which are far from each other."""
    means = np.random.default_rng(0).standard_normal((2, 512)).astype(np.float32) / 20
    return replace(embedder, means=IndexMeans(names=("1", "2"), means=means, overall=means.mean(axis=0)))


@pytest.fixture(scope="session")
def crops(small_sites):
    return small_sites / "site-b" / "bounding_box_test"


@pytest.fixture(scope="session")
def indexed(embedder, crops, tmp_path_factory):
    """Folder of an index of ``crops``; not to be written to."""
    path = tmp_path_factory.mktemp("indexed") / "index"
    with create(path, embedder.card) as gallery:
        add(gallery, embedder, find_images([crops]), num_workers=1)
    return path


@pytest.fixture
def index(indexed, tmp_path):
    """Folder of a copy of the index."""
    return shutil.copytree(indexed, tmp_path / "index")


@pytest.fixture
def gallery(tmp_path):
    """An empty index of 8-dimensional vectors."""
    with create(tmp_path / "gallery", card()) as opened:
        yield opened


@pytest.fixture(scope="session")
def served(weights_file, embedder, small_sites, tmp_path_factory):
    """Folder of an index with two identities and a threshold; not to be written to."""
    path = tmp_path_factory.mktemp("served") / "index"
    with create(path, embedder.card) as gallery:
        add(gallery, embedder, find_images([small_sites / "site-b" / "bounding_box_test"]), num_workers=1)
        split(gallery, [1, 2, 3])
        split(gallery, [4, 5])
        points = tuple(
            Point(fpr=fpr, threshold=threshold, low=None, high=None, tpr=None)
            for fpr, threshold in ((0.1, 0.5), (0.001, 0.9))
        )
        save(gallery, Thresholds(points=points, kinds={}, num_negatives=9, num_positives=0, num_units=1, unit="minute"))
    return path
