"""Which gallery images are right, which are left out: decided once from the labels, listed block by block."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from reid_da.datasets.table import JUNK_PID
from reid_da.errors import InputError, unknown_name
from reid_da.features import Array, Labels, label_array

SAME_CAMERA = ("exclude", "include")


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockRelevance:
    """What the gallery is to a block of q queries; everything that is not listed here is a wrong image.

    Attributes:
        rows: (P,) int64 queries, from the first of the block, of the pairs with the same identity, in order.
        columns: (P,) int64 gallery images of these pairs: true matches, and images that are left out.
        match_rows: (T,) int64 queries of the true matches among them, in order.
        match_columns: (T,) int64 gallery images of the true matches.
        match_numbers: (T,) int64 number of each true match among those of its query, from 0.
        num_matches: (q,) int64 true matches of each query.
        most_matches: the largest of them.
        junk: (J,) int64 gallery images that are left out for every query.
    """

    rows: Tensor
    columns: Tensor
    match_rows: Tensor
    match_columns: Tensor
    match_numbers: Tensor
    num_matches: Tensor
    most_matches: int
    junk: Tensor


class Relevance:
    """What every gallery image is to every query: a true match, wrong, or left out.

    Junk (pid -1) is left out for every query and matches nothing; a junk query has no matches.

    Args:
        query_pids: (Q,) identities.
        query_camids: (Q,) cameras.
        gallery_pids: (G,) identities.
        gallery_camids: (G,) cameras.
        shape: (Q, G).
        same_camera: ``exclude`` leaves out images of the query's identity from the query's camera, ``include``
            takes them for matches.
        is_choice: whether ``same_camera`` is the user's choice, so that the other one may be advised.

    Raises:
        InputError: an array of the wrong length or with invalid labels, or no query with a true match.
    """

    def __init__(
        self,
        query_pids: Array,
        query_camids: Array,
        gallery_pids: Array,
        gallery_camids: Array,
        *,
        shape: tuple[int, int],
        same_camera: str,
        is_choice: bool = True,
    ) -> None:
        if same_camera not in SAME_CAMERA:
            raise unknown_name("same_camera", same_camera, SAME_CAMERA)
        self.query_pids = pid_array(query_pids, "query_pids", length=shape[0])
        self.query_camids = label_array(query_camids, "query_camids", length=shape[0])
        self.gallery_pids = pid_array(gallery_pids, "gallery_pids", length=shape[1])
        self.gallery_camids = label_array(gallery_camids, "gallery_camids", length=shape[1])
        self._exclude = same_camera == "exclude"
        # in this order the gallery images of one identity follow one another: [first, first + count) per query
        self._order = np.argsort(self.gallery_pids, kind="stable")
        ordered = self.gallery_pids[self._order]
        self._first = np.searchsorted(ordered, self.query_pids)
        count = np.searchsorted(ordered, self.query_pids, side="right") - self._first
        self._count = np.where(self.query_pids == JUNK_PID, 0, count)
        self._check_matches(is_choice=is_choice)

    def block(self, query_rows: slice, device: torch.device) -> BlockRelevance:
        """What the gallery is to the given queries, as tensors on ``device``."""
        rows, columns, is_match = self._pairs(query_rows)
        match_rows = rows[is_match]
        num_matches = np.bincount(match_rows, minlength=len(self._count[query_rows]))
        arrays = {
            "rows": rows,
            "columns": columns,
            "match_rows": match_rows,
            "match_columns": columns[is_match],
            "match_numbers": _numbers_within(num_matches),
            "num_matches": num_matches,
            "junk": np.flatnonzero(self.gallery_pids == JUNK_PID),
        }
        tensors = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
        return BlockRelevance(**tensors, most_matches=int(num_matches.max()))

    def _pairs(self, query_rows: slice) -> tuple[Labels, Labels, Labels]:
        """Query from the first of the block, gallery image, and whether it is a match, per pair of one identity."""
        count = self._count[query_rows]
        rows = np.repeat(np.arange(len(count)), count)
        columns = self._order[np.repeat(self._first[query_rows], count) + _numbers_within(count)]
        same_camera = self.query_camids[query_rows][rows] == self.gallery_camids[columns]
        return rows, columns, ~same_camera if self._exclude else np.ones_like(same_camera)

    def _check_matches(self, *, is_choice: bool) -> None:
        """Raise an error with the cause if no query has a true match."""
        step = max(1, 2**20 // max(1, int(self._count.max())))
        for start in range(0, len(self._count), step):
            if self._pairs(slice(start, start + step))[2].any():
                return
        labelled = self.query_pids[self.query_pids != JUNK_PID]
        if not len(labelled):
            cause = f"all {len(self.query_pids)} queries are junk (pid {JUNK_PID})"
        elif not self._count.any():
            cause = (
                f"none of their {len(np.unique(labelled))} identities occurs in the gallery; check that both sets "
                "number identities alike"
            )
        else:
            advice = (
                "count such matches: same_camera='include' (--same-camera include)"
                if is_choice
                else "give images that at least two cameras took of the same people"
            )
            cause = (
                "every gallery image of a query's identity is from the query's own camera; check the camids, or"
                f" {advice}"
            )
        raise InputError(f"no query has a true match in the gallery: {cause}")


def _numbers_within(counts: Labels) -> Labels:
    """0, 1, ..., counts[0] - 1, 0, 1, ..., counts[1] - 1, and so on."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def pid_array(pids: Array, name: str, *, length: int) -> Labels:
    """``pids`` as (length,) int64, each 0 or above or :data:`JUNK_PID`.

    Raises:
        InputError: as :func:`label_array`, or a pid below -1: an image without a label cannot be judged.
    """
    values = label_array(pids, name, length=length)
    unlabelled = int((values < JUNK_PID).sum())
    if unlabelled:
        raise InputError(
            f"{name}: {unlabelled} images have no identity (pid {values.min()}); an evaluation needs labels "
            f"({JUNK_PID} marks junk)"
        )
    return values
