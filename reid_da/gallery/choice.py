"""Which threshold a search uses: one that is given, the calibration of the run, or that of the index itself."""

from typing import Literal, NamedTuple, get_args

from reid_da.api import Model
from reid_da.errors import InputError, unknown_name
from reid_da.evaluation.operating_point import check_rates
from reid_da.gallery.protocol import ImageIndex
from reid_da.gallery.threshold import stored

Source = Literal["auto", "calibration", "index"]


class Chosen(NamedTuple):
    """A threshold on the cosine similarity, the false positive rate of a pair there, and where it comes from."""

    threshold: float | None
    fpr: float | None
    source: str


def choose_threshold(
    index: ImageIndex,
    model: Model | None,
    *,
    fpr: float | None = None,
    threshold: float | None = None,
    source: str = "auto",
) -> Chosen:
    """The threshold of a search; none where neither a rate nor a threshold is asked for.

    Args:
        index: the index.
        model: its model, whose run may be calibrated; None leaves that out.
        fpr: false positive rate of a pair.
        threshold: lowest similarity that means the same person.
        source: ``calibration`` of the run, by labels; ``index``, without labels; ``auto``: the first that there is.

    Raises:
        InputError: both are given, are out of range, or nothing tells the threshold at this rate.
    """
    if source not in get_args(Source):
        raise unknown_name("source of the threshold", source, get_args(Source))
    if threshold is not None:
        if fpr is not None:
            raise InputError("give a false positive rate or a threshold, not both")
        if not -1 <= threshold <= 1:
            raise InputError(f"threshold: expected a cosine similarity from -1 to 1, got {threshold:g}")
        return Chosen(threshold, None, "as given")
    if fpr is None:
        return Chosen(None, None, "")
    check_rates([fpr])
    reasons = []
    if source != "index":
        try:
            if model is None:
                raise InputError("the model is not loaded")
            if index.card.center_cameras:
                raise InputError(f"{index.place}: is centred by camera, and the run is calibrated without centring")
            return Chosen(model.threshold(fpr), fpr, f"calibration of {model.run}")
        except InputError as error:
            reasons.append(str(error))
    if source != "calibration":
        found = stored(index)
        value = None if found is None else found.at(fpr)
        if value is not None:
            return Chosen(value, fpr, "the index, without labels")
        reasons.append(
            f"{index.place}: no threshold at {fpr:g}: reid-da index threshold {index.place} --fpr {fpr:g}"
            + ("" if found is None else " (its pairs may be too few)")
        )
    raise InputError("; ".join(reasons))
