"""Streams that several methods have."""

from reid_da.config import AugmentSettings
from reid_da.errors import InputError
from reid_da.images import Grouping, IdentitySampler, Sampler, ShuffledSampler
from reid_da.methods.protocol import Domain, StreamPlan


def labelled_stream(
    domain: Domain,
    *,
    size: int,
    instances: int,
    augment: AugmentSettings,
    grouping: Grouping = "all",
    setting: str = "batch.source",
) -> StreamPlan:
    """Images of a domain with the classes of its identities.

    Args:
        domain: the images.
        size: number of images in a batch.
        instances: images of each identity in a batch; 1: no grouping by identity.
        augment: random changes of the images.
        grouping: which images of an identity a pass takes.
        setting: of the size, for messages.

    Raises:
        InputError: the sizes do not fit the domain, or each other.
    """
    check_batch(domain, size=size, setting=setting)
    sampler: Sampler = ShuffledSampler(size)
    if instances > 1:
        if size % instances:
            raise InputError(f"{setting} is {size}, which is not a multiple of batch.instances, {instances}")
        sampler = IdentitySampler(size // instances, instances, once=grouping == "once", drawn=grouping != "all")
    return StreamPlan(domain=domain, sampler=sampler, augment=augment, labels=domain.labels)


def styled_stream(
    domain: Domain, *, size: int, views: int, augment: AugmentSettings, setting: str = "batch.target"
) -> StreamPlan:
    """Images of a domain in random order; where it has views in the styles of cameras, random ones of them.

    Args:
        domain: the images.
        size: number of images in a batch.
        views: different views of each; 1 where the domain has none.
        augment: random changes of the images.
        setting: of the size, for messages.

    Raises:
        InputError: the sizes do not fit the domain.
    """
    views = views if domain.num_views else 0
    check_batch(domain, size=size, per_image=max(views, 1), setting=setting)
    choices = domain.num_views - (not domain.with_own)
    if views > choices:
        raise InputError(f"views.per_image is {views}, but an image has {choices} different views; lower it")
    return StreamPlan(domain=domain, sampler=ShuffledSampler(size), augment=augment, views=views)


def check_batch(domain: Domain, *, size: int, setting: str, per_image: int = 1) -> None:
    """See to it that a batch can be filled, and normalised.

    Raises:
        InputError: it cannot.
    """
    if len(domain.rows) < size:
        raise InputError(f"{setting} is {size}, but there are {len(domain.rows)} {domain.name} images; lower it")
    if size * per_image < 2:
        raise InputError(f"{setting} is 1, and batch normalisation takes at least 2 images; raise it")
