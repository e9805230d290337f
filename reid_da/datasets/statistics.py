"""Statistics of a data set: how many images and identities, where, and how they spread over the cameras."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reid_da.datasets.image_files import file_names, image_sizes
from reid_da.datasets.table import JUNK_PID, UNLABELLED_PID, Dataset, SampleTable


@dataclass(frozen=True, kw_only=True)
class SplitCounts:
    """Counts of one split.

    Attributes:
        name: ``train``, ``query`` or ``gallery``.
        images: all images.
        ids: identities; junk and, outside train, distractors are nobody's.
        cameras: cameras that have an image.
        junk: images with pid -1.
        distractors: images with the distractor pid; 0 in train, where that pid is an identity like any other.
        unlabelled: images whose identity is not known.
    """

    name: str
    images: int
    ids: int
    cameras: int
    junk: int
    distractors: int
    unlabelled: int


@dataclass(frozen=True, kw_only=True)
class CameraCounts:
    """Counts of one camera.

    Attributes:
        name: what the camera is called.
        train_images: images in train.
        query_images: images in query.
        gallery_images: images in the gallery, junk and distractors included.
        train_ids: identities in train.
        test_ids: identities in query and gallery together, without junk and distractors.
        unlabelled: images whose identity is not known, in all splits.
    """

    name: str
    train_images: int
    query_images: int
    gallery_images: int
    train_ids: int
    test_ids: int
    unlabelled: int

    @property
    def images(self) -> int:
        """Images in all splits."""
        return self.train_images + self.query_images + self.gallery_images

    @property
    def ids(self) -> int:
        """Identities in both halves; one that is in both counts twice."""
        return self.train_ids + self.test_ids


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Smallest, middle and largest of some numbers."""

    min: int
    median: float
    max: int

    @classmethod
    def of(cls, values: ArrayLike) -> "Spread | None":
        """Spread of the values, or None where there are none."""
        array = np.asarray(values)
        if not array.size:
            return None
        return cls(min=int(array.min()), median=float(np.median(array)), max=int(array.max()))


@dataclass(frozen=True, kw_only=True)
class IdentityStatistics:
    """How the identities of one half, train or test (query and gallery together), spread over images and cameras.

    Attributes:
        ids: number of identities, without junk and distractors.
        ids_by_num_cameras: number of identities that occur in 1, 2, ... cameras.
        images_per_id: number of images of each identity, in increasing order.
        cross_camera_share: share of matching pairs, from 0 to 1, whose images are of different cameras: pairs of
            training images, or of a query and a gallery image; None where no two images match.
    """

    ids: int
    ids_by_num_cameras: tuple[int, ...]
    images_per_id: tuple[int, ...]
    cross_camera_share: float | None

    @property
    def images_per_id_spread(self) -> Spread | None:
        """Spread of the number of images of an identity, None where there are no identities."""
        return Spread.of(self.images_per_id)


@dataclass(frozen=True, kw_only=True)
class SizeStatistics:
    """Sizes of the images in pixels, as stored, by the headers of the files.

    Attributes:
        height: spread of the heights, None where no file could be read.
        width: spread of the widths, None where no file could be read.
        unreadable: number of files without a readable header.
    """

    height: Spread | None
    width: Spread | None
    unreadable: int


@dataclass(frozen=True, kw_only=True)
class DatasetStatistics:
    """Statistics of a data set.

    Attributes:
        name: name of the data set.
        reading: one line that says how it was read.
        splits: counts of train, query and gallery.
        cameras: counts of every camera, in the order of the camids.
        train: how the training identities spread over images and cameras.
        test: the same of query and gallery.
        sizes: sizes of the images, None where they were not asked for.
    """

    name: str
    reading: str
    splits: tuple[SplitCounts, ...]
    cameras: tuple[CameraCounts, ...]
    train: IdentityStatistics
    test: IdentityStatistics
    sizes: SizeStatistics | None

    def to_json(self) -> dict[str, Any]:
        """The statistics as values that JSON can hold."""
        return asdict(self)


def dataset_statistics(
    dataset: Dataset, *, measure_sizes: bool = True, num_workers: int | None = None
) -> DatasetStatistics:
    """Statistics of a data set.

    Args:
        dataset: the data set.
        measure_sizes: read the size of each image from the header of its file.
        num_workers: number of threads that read; default one per core.

    Raises:
        InputError: ``num_workers`` is less than 1.
    """
    return DatasetStatistics(
        name=dataset.title,
        reading=dataset.reading,
        splits=count_splits(dataset),
        cameras=count_cameras(dataset),
        train=_identity_statistics(dataset.train, distractor_pid=None, matches=_train_matches(dataset.train)),
        test=_identity_statistics(
            dataset.query, dataset.gallery, distractor_pid=dataset.distractor_pid, matches=_test_matches(dataset)
        ),
        sizes=_size_statistics(dataset, num_workers) if measure_sizes else None,
    )


def count_splits(dataset: Dataset) -> tuple[SplitCounts, ...]:
    """Counts of train, query and gallery."""
    return tuple(_count_split(dataset, name) for name in dataset.splits)


def count_cameras(dataset: Dataset) -> tuple[CameraCounts, ...]:
    """Counts of every camera, in the order of the camids."""
    num_cameras = dataset.num_cameras

    def images(*tables: SampleTable) -> NDArray[np.int64]:
        return np.bincount(np.concatenate([table.camids for table in tables]), minlength=num_cameras)

    def ids(*tables: SampleTable, distractor_pid: int | None) -> NDArray[np.int64]:
        pairs = np.unique(_person_rows(*tables, distractor_pid=distractor_pid), axis=0)
        return np.bincount(pairs[:, 1], minlength=num_cameras)

    unlabelled = [table.select(table.pids == UNLABELLED_PID) for table in dataset.splits.values()]
    columns = {
        "train_images": images(dataset.train),
        "query_images": images(dataset.query),
        "gallery_images": images(dataset.gallery),
        "train_ids": ids(dataset.train, distractor_pid=None),
        "test_ids": ids(dataset.query, dataset.gallery, distractor_pid=dataset.distractor_pid),
        "unlabelled": images(*unlabelled),
    }
    return tuple(
        CameraCounts(name=name, **{column: int(counts[camid]) for column, counts in columns.items()})
        for camid, name in enumerate(dataset.camera_names)
    )


def shows_person(table: SampleTable, *, distractor_pid: int | None) -> NDArray[np.bool_]:
    """(N,) bool: whether an image shows a known person, and not junk, a distractor or somebody unlabelled."""
    is_known = table.pids >= 0
    return is_known if distractor_pid is None else is_known & (table.pids != distractor_pid)


def count_matches(query: SampleTable, gallery: SampleTable) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(Q,) and (Q,) int64: gallery images with the pid of each query, and those of them by its own camera."""
    width = 1 + max(table.camids.max(initial=0) for table in (query, gallery))
    return (
        _occurrences(query.pids, gallery.pids),
        _occurrences(query.pids * width + query.camids, gallery.pids * width + gallery.camids),
    )


def _occurrences(values: NDArray[np.int64], among: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each of the values occurs ``among`` the others."""
    distinct, index = np.unique(np.concatenate([values, among]), return_inverse=True)
    return np.bincount(index[len(values) :], minlength=len(distinct))[index[: len(values)]]


def _person_rows(*tables: SampleTable, distractor_pid: int | None) -> NDArray[np.int64]:
    """(N, 2) int64 pid and camid of the images that show a known person."""
    people = [table.select(shows_person(table, distractor_pid=distractor_pid)) for table in tables]
    return np.concatenate([np.stack([table.pids, table.camids], axis=1) for table in people])


def _count_split(dataset: Dataset, name: str) -> SplitCounts:
    table = dataset.splits[name]
    distractor_pid = None if name == "train" else dataset.distractor_pid
    return SplitCounts(
        name=name,
        images=len(table),
        ids=len(np.unique(_person_rows(table, distractor_pid=distractor_pid)[:, 0])),
        cameras=len(table.cameras),
        junk=int((table.pids == JUNK_PID).sum()),
        distractors=0 if distractor_pid is None else int((table.pids == distractor_pid).sum()),
        unlabelled=int((table.pids == UNLABELLED_PID).sum()),
    )


def _identity_statistics(
    *tables: SampleTable, distractor_pid: int | None, matches: tuple[int, int]
) -> IdentityStatistics:
    rows = _person_rows(*tables, distractor_pid=distractor_pid)
    images_per_id = np.unique(rows[:, 0], return_counts=True)[1]
    cameras_per_id = np.unique(np.unique(rows, axis=0)[:, 0], return_counts=True)[1]
    total, same_camera = matches
    return IdentityStatistics(
        ids=len(images_per_id),
        ids_by_num_cameras=tuple(np.bincount(cameras_per_id)[1:].tolist()),
        images_per_id=tuple(np.sort(images_per_id).tolist()),
        cross_camera_share=1 - same_camera / total if total else None,
    )


def _train_matches(train: SampleTable) -> tuple[int, int]:
    """Number of pairs of training images of one identity, and of those by one camera."""
    rows = _person_rows(train, distractor_pid=None)

    def pairs(keys: NDArray[np.int64]) -> int:
        sizes = np.unique(keys, axis=0, return_counts=True)[1]
        return int((sizes * (sizes - 1) // 2).sum())

    return pairs(rows[:, :1]), pairs(rows)


def _test_matches(dataset: Dataset) -> tuple[int, int]:
    """Number of pairs of a query and a gallery image of one identity, and of those by one camera."""
    people = dataset.query.select(shows_person(dataset.query, distractor_pid=dataset.distractor_pid))
    total, same_camera = count_matches(people, dataset.gallery)
    return int(total.sum()), int(same_camera.sum())


def _size_statistics(dataset: Dataset, num_workers: int | None) -> SizeStatistics:
    sizes = image_sizes(list(file_names(dataset)), num_workers=num_workers)
    known = sizes[sizes[:, 0] > 0]
    return SizeStatistics(
        height=Spread.of(known[:, 0]), width=Spread.of(known[:, 1]), unreadable=len(sizes) - len(known)
    )
