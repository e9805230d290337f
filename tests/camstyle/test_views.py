"""Cameras are drawn uniformly, and repeatably."""

import torch

from reid_da.camstyle import sample_views


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
