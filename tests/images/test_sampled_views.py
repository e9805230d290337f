"""Cameras are drawn uniformly, and repeatably."""

import pytest
import torch

from reid_da.errors import InputError
from reid_da.images.samplers import sample_views


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_camera_is_drawn_equally_often_whatever_the_own_one() -> None:
    camids = torch.arange(6).repeat_interleave(6000)

    views = sample_views(camids, num_cameras=6, generator=generator(0))

    assert views.dtype == torch.int64
    counts = torch.bincount(6 * camids + views, minlength=36).double()
    # chi-square with 35 degrees of freedom: 66.6 is exceeded once in a thousand
    assert ((counts - 1000).square() / 1000).sum() < 66.6
    assert torch.isclose((views == camids).double().mean(), torch.tensor(1 / 6, dtype=torch.float64), atol=0.01)


def test_same_generator_same_views() -> None:
    camids = torch.zeros(100, dtype=torch.int64)

    first, again, other = (sample_views(camids, num_cameras=15, generator=generator(seed)) for seed in (1, 1, 2))

    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_several_views_of_an_image_differ_and_each_camera_is_as_likely() -> None:
    camids = torch.zeros(6000, dtype=torch.int64)

    views = sample_views(camids, num_cameras=4, generator=generator(0), per_image=3).view(6000, 3)

    assert (views.sort(1).values.diff(dim=1) > 0).all()
    left_out = 6 - views.sum(1)
    # chi-square with 3 degrees of freedom: 16.3 is exceeded once in a thousand
    assert ((torch.bincount(left_out, minlength=4) - 1500).square() / 1500).sum() < 16.3


@pytest.mark.parametrize("per_image", [1, 2])
def test_without_the_own_camera_the_others_are_equally_likely(per_image: int) -> None:
    camids = torch.arange(4).repeat_interleave(3000)

    views = sample_views(camids, num_cameras=4, generator=generator(0), per_image=per_image, with_own=False)

    counts = torch.bincount(4 * camids.repeat_interleave(per_image) + views, minlength=16).view(4, 4)
    assert (counts.diagonal() == 0).all()
    expected = 1000 * per_image
    # chi-square with 8 degrees of freedom: 26.1 is exceeded once in a thousand
    assert ((counts[~torch.eye(4, dtype=torch.bool)] - expected).square() / expected).sum() < 26.1


@pytest.mark.parametrize(("per_image", "with_own"), [(5, True), (4, False)])
def test_more_views_than_there_are(per_image: int, with_own: bool) -> None:
    with pytest.raises(InputError, match=f"views.per_image is {per_image}, but an image has {per_image - 1} different"):
        sample_views(
            torch.zeros(2, dtype=torch.int64),
            num_cameras=4,
            generator=generator(0),
            per_image=per_image,
            with_own=with_own,
        )
