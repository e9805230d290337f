"""Whether a data set is valid, found out before any training."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reid_da.datasets.duplicates import duplicate_findings, identical_rows
from reid_da.datasets.findings import SEVERITIES, Finding, found
from reid_da.datasets.image_files import file_names, image_findings, inspect_images
from reid_da.datasets.published import published_findings
from reid_da.datasets.statistics import (
    CameraCounts,
    SplitCounts,
    count_cameras,
    count_matches,
    count_splits,
    shows_person,
)
from reid_da.datasets.table import JUNK_PID, UNLABELLED_PID, Dataset, SampleTable

OWN_TEST_PIDS = frozenset({"msmt17", "msmt17-market"})
"""Formats whose test identities are numbered independently of the training ones.

In all others a pid that is in both halves is one person in both halves. MSMT17 numbers each half from 0 (Wei et al.,
CVPR 2018), so that pid 3 of train and pid 3 of query are two people, however the files are laid out.
"""


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What a check of a data set found.

    Attributes:
        name: name of the data set.
        format: name of the layout that it was read from.
        root: folder of the data set.
        reading: one line that says how it was read.
        splits: counts of train, query and gallery.
        cameras: counts of every camera, in the order of the camids.
        findings: what was found, gravest first.
        images_verified: whether the image files were opened and decoded.
    """

    name: str
    format: str
    root: Path
    reading: str
    splits: tuple[SplitCounts, ...]
    cameras: tuple[CameraCounts, ...]
    findings: tuple[Finding, ...]
    images_verified: bool

    @property
    def is_sound(self) -> bool:
        """Whether there is no problem; warnings and notes do not count."""
        return not any(finding.severity == "problem" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """The report, with all examples of each finding, as values that JSON can hold."""
        return {**asdict(self), "root": str(self.root), "is_sound": self.is_sound}


def check_dataset(dataset: Dataset, *, num_workers: int | None = None, verify_images: bool = True) -> CheckReport:
    """What is wrong, odd or good to know about a data set.

    Args:
        dataset: the data set.
        num_workers: number of threads that read and decode images; default one per core.
        verify_images: read and decode every image, to find damaged files and duplicates. Without it only
            identities and cameras are looked at, which takes a second.

    Raises:
        InputError: ``num_workers`` is less than 1.
    """
    splits = {counts.name: counts for counts in count_splits(dataset)}
    cameras = count_cameras(dataset)
    findings = [
        *_split_findings(dataset, splits),
        *(_file_findings(dataset, num_workers) if verify_images else []),
        *_passed_over(dataset),
        *_query_findings(dataset),
        *_identity_findings(dataset),
        *_camera_findings(dataset, cameras),
        *published_findings(dataset.format, splits),
        *(Finding(severity="note", code="reader-note", message=note, count=1) for note in dataset.notes),
    ]
    return CheckReport(
        name=dataset.title,
        format=dataset.format,
        root=dataset.root,
        reading=dataset.reading,
        splits=tuple(splits.values()),
        cameras=cameras,
        findings=tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))),
        images_verified=verify_images,
    )


def _file_findings(dataset: Dataset, num_workers: int | None) -> list[Finding]:
    names = file_names(dataset)
    files = inspect_images(list(names), num_workers=num_workers)
    groups = identical_rows(
        dataset, dict(zip(names, files, strict=True)), has_own_test_pids=dataset.format in OWN_TEST_PIDS
    )
    return image_findings(list(names.values()), files) + duplicate_findings(groups)


def _passed_over(dataset: Dataset) -> list[Finding]:
    message = "pictures or films of a kind that is not read, left out: convert them to JPEG or PNG"
    return found("warning", "files-passed-over", message, dataset.passed_over)


def _split_findings(dataset: Dataset, splits: dict[str, SplitCounts]) -> list[Finding]:
    """Splits without images, and images without an identity."""
    train, query, gallery = (splits[name].images for name in ("train", "query", "gallery"))
    if not train + query + gallery:
        return [Finding(severity="problem", code="no-images", message="the data set has no images", count=1)]
    findings = []
    if not train:
        message = "no training images: the set can be evaluated on, but not trained on or adapted to"
        findings.append(Finding(severity="note", code="no-train-split", message=message, count=1))
    if not query and not gallery:
        message = "no query and no gallery images: the set can be trained on or adapted to, but nothing can be measured"
        if splits["train"].ids:
            message += "; to test on its people: reid-da data import FOLDER --test-only"
        findings.append(Finding(severity="note", code="no-test-split", message=message, count=1))
    elif not query or not gallery:
        absent, present = ("query", "gallery") if not query else ("gallery", "query")
        message = f"no {absent} images although there are {present} images: nothing can be measured; add the {absent}"
        findings.append(Finding(severity="problem", code=f"no-{absent}", message=message, count=1))
    return findings + _label_findings(dataset, splits)


def _label_findings(dataset: Dataset, splits: dict[str, SplitCounts]) -> list[Finding]:
    """Images without an identity."""
    findings = []
    train = splits["train"]
    if train.unlabelled and train.unlabelled == train.images:
        message = "the training identities are unknown: the set can be adapted to (target), but not be a source"
        findings.append(Finding(severity="note", code="unlabelled-train", message=message, count=train.unlabelled))
    elif train.unlabelled:
        message = "some training images have no identity and others have one: as a source the set will be refused"
        rows = _paths(dataset.train, dataset.train.pids == UNLABELLED_PID)
        findings += found("warning", "partly-labelled-train", message, rows)
    message = "junk images (pid -1) among the training images: as a source the set will be refused; remove them"
    findings += found("warning", "junk-in-train", message, _paths(dataset.train, dataset.train.pids == JUNK_PID))
    for table, name in ((dataset.query, "query"), (dataset.gallery, "gallery")):
        message = f"{name} images have no identity, so that right and wrong matches cannot be told: label them"
        rows = _paths(table, table.pids == UNLABELLED_PID)
        findings += found("problem", f"unlabelled-{name}", message, rows)
    return findings


def _query_findings(dataset: Dataset) -> list[Finding]:
    """Queries without a true match in another camera, by cause."""
    query, gallery = dataset.query, dataset.gallery
    if not len(query) or not len(gallery):
        return []
    shown = shows_person(query, distractor_pid=dataset.distractor_pid)
    total, same_camera = count_matches(query, gallery)
    if dataset.same_camera == "include":
        same_camera = np.zeros_like(same_camera)
    absent = shown & (total == 0)
    one_camera = shown & (total > 0) & (total == same_camera)
    nobody = ~shown & (query.pids != UNLABELLED_PID)
    findings = []
    if not (shown & (total > same_camera)).any():
        where = "in another camera" if dataset.same_camera == "exclude" else "at all"
        message = f"no query has a true match {where}, so that nothing can be measured "
        message += f"('all query identities do not appear in gallery'): {_why_none(dataset, shown, absent)}"
        findings.append(Finding(severity="problem", code="no-query-matches", message=message, count=len(query)))
    left_out = "; evaluation leaves such queries out"
    return [
        *findings,
        *found(
            "problem",
            "query-ids-not-in-gallery",
            f"queries whose identity has no gallery image at all: add its images or remove the query{left_out}",
            _paths_with_pids(query, absent),
        ),
        *found(
            "problem",
            "query-ids-in-one-camera",
            "queries whose identity has gallery images by the same camera only, which do not count: add images by "
            f"another camera or remove the query{left_out}",
            _paths_with_pids(query, one_camera),
        ),
        *found(
            "problem",
            "queries-of-nobody",
            f"queries with the pid of junk or distractors, which match nobody: remove them{left_out}",
            _paths_with_pids(query, nobody),
        ),
    ]


def _why_none(dataset: Dataset, shown: NDArray[np.bool_], absent: NDArray[np.bool_]) -> str:
    """Why no query at all has a match, with what to do."""
    cameras = np.union1d(dataset.query.camids, dataset.gallery.camids)
    if not shown.any():
        return "no query has the pid of a person; label them"
    if absent[shown].all():
        return "query and gallery have no identity in common; are both numbered alike, and of the same data set?"
    if len(cameras) == 1:
        only = dataset.camera_names[cameras[0]]
        return f"all their images are by one camera, {only}; is the camera read rightly from the file names?"
    return "each query shares its identity with nothing but images by its own camera, if any; see below"


def _identity_findings(dataset: Dataset) -> list[Finding]:
    """Identities in both halves, and training identities that teach little."""
    train = dataset.train.select(shows_person(dataset.train, distractor_pid=None))
    pids, num_images = np.unique(train.pids, return_counts=True)
    num_cameras = np.unique(np.unique(np.stack([train.pids, train.camids], axis=1), axis=0)[:, 0], return_counts=True)[
        1
    ]
    findings = []
    if dataset.format not in OWN_TEST_PIDS:
        # a leak or two numberings: numbers alone do not tell
        advice = "renumber one of them"
        if dataset.format == "market-style":
            advice = "as those of MSMT17 do, say so: --format msmt17-market"
        findings = found(
            "problem",
            "ids-in-train-and-test",
            "identities in train and in test: results will be too good; keep each identity in one half (or, if the "
            f"halves merely count from the same start, {advice})",
            _pid_names(np.intersect1d(pids, _test_pids(dataset))),
        )
    in_one_camera = (num_images > 1) & (num_cameras == 1) if dataset.num_cameras > 1 else np.zeros(len(pids), np.bool_)
    return [
        *findings,
        *found(
            "warning",
            "train-ids-with-one-image",
            "training identities with a single image: there is nothing to match it with; add images or remove them",
            _pid_names(pids[num_images == 1]),
        ),
        *found(
            "warning",
            "train-ids-in-one-camera",
            "training identities with several images by one camera: they teach nothing about differences of cameras",
            _pid_names(pids[in_one_camera]),
        ),
    ]


def _test_pids(dataset: Dataset) -> NDArray[np.int64]:
    tables = (dataset.query, dataset.gallery)
    pids = [table.pids[shows_person(table, distractor_pid=dataset.distractor_pid)] for table in tables]
    return np.unique(np.concatenate(pids))


def _camera_findings(dataset: Dataset, cameras: Sequence[CameraCounts]) -> list[Finding]:
    """Cameras that show nobody or one person, and cameras that only one half knows."""
    consequence = (
        "matches by the same camera count in evaluations, whose figures cannot be compared with those of papers; "
        "camera styles and the camera term of a loss need several"
    )
    if not dataset.has_cameras:
        message = f"cameras are not known: {consequence}"
        return [Finding(severity="warning", code="no-cameras", message=message, count=sum(c.images for c in cameras))]
    used = [camera for camera in cameras if camera.images]
    if not used:
        return []
    has_train = any(camera.train_images for camera in used)
    test_only = [camera for camera in used if has_train and not camera.train_images]
    findings = [
        *found(
            "warning",
            "cameras-without-images",
            "cameras that no image is of: are images missing, or the cameras read wrongly from the file names?",
            [camera.name for camera in cameras if not camera.images],
        ),
        *found(
            "warning",
            "cameras-with-one-id",
            "cameras that show a single identity: the camera cannot be told from the person",
            [camera.name for camera in used if camera.ids == 1 and not camera.unlabelled],
        ),
        *found(
            "warning",
            "cameras-not-in-train",
            "cameras of query or gallery without a training image: their look will be unknown to the model",
            [camera.name for camera in test_only],
        ),
    ]
    if len(used) == 1:
        message = f"all images are by one camera (is it read rightly from the names?): {consequence}"
        findings += found("warning", "one-camera", message, [used[0].name])
    return findings


def _paths(table: SampleTable, mask: NDArray[np.bool_]) -> list[str]:
    return [table.paths[row] for row in np.flatnonzero(mask)]


def _paths_with_pids(table: SampleTable, mask: NDArray[np.bool_]) -> list[str]:
    return [f"{table.paths[row]} (pid {table.pids[row]})" for row in np.flatnonzero(mask)]


def _pid_names(pids: Iterable[int]) -> list[str]:
    return [f"pid {pid}" for pid in pids]
