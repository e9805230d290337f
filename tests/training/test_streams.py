"""The batches that reach a method: which image, in which camera's style, with which label."""

from collections import Counter

import pytest
import torch
from coded_site import codes, levels
from harness import experiment, labels_in, seen_by_method, trainer_of

PLAIN = {"augment": {"crop": "none", "flip": 0.0, "erase": 0.0}}
TARGET_CAMIDS = torch.arange(3).repeat(6)
"""Camera of each target image: six people, each seen once by each of three cameras."""
SOURCE_PEOPLE = torch.tensor([2, 3, 5, 9])
SOURCE_PIDS = SOURCE_PEOPLE.repeat_interleave(4)
"""Person of each source image: two cameras, two images in each."""


@pytest.fixture
def trainer(coded_sites, tmp_path):
    def make(**changes):
        tree = {**PLAIN, "steps_per_epoch": 12, **changes}
        settings = experiment(coded_sites / "source", coded_sites / "target", tree)
        return trainer_of(settings, tmp_path / "unused")

    return make


def stream(trainer, name, epoch=0):
    """Index of the batches of a stream in an epoch, and what their pixels say: row, view and person."""
    steps = [step[name] for step in seen_by_method(trainer, epoch)]
    return torch.cat([index for index, _ in steps]), torch.cat([codes(images) for _, images in steps])


def test_source_batches_hold_the_images_of_their_index_and_its_labels(trainer):
    made = trainer()
    index, seen = stream(made, "source")
    row, view, pid = seen.T
    assert torch.equal(row, index)
    assert torch.equal(view, torch.arange(2).repeat_interleave(2).repeat(4)[index])
    assert torch.equal(pid, SOURCE_PIDS[index])
    # classes are numbered in the order of the identities
    assert torch.equal(labels_in(made, index), (pid[:, None] > SOURCE_PEOPLE).sum(dim=1))


def test_an_epoch_is_one_pass_over_the_source(trainer):
    index, _ = stream(trainer(steps_per_epoch=0), "source")
    assert sorted(index.tolist()) == list(range(16))


def test_target_batches_hold_the_drawn_view_of_the_image_of_their_slot(trainer):
    index, seen = stream(trainer(steps_per_epoch=40), "target")
    row, view, pid = seen.T
    # the real image carries the number of its own camera, a view that of the wanted one
    assert torch.equal(row, index)
    assert torch.equal(pid, torch.tensor([11, 12, 13, 14, 15, 16])[index // 3])
    assert set(view.tolist()) == {0, 1, 2}
    # every camera as often as any other, the own one among them; 320 draws, 5 standard deviations
    for camid in range(3):
        count = int((view == camid).sum())
        assert abs(count - 320 / 3) < 5 * (320 * 2 / 9) ** 0.5
    own = int((view == TARGET_CAMIDS[index]).sum())
    assert abs(own - 320 / 3) < 5 * (320 * 2 / 9) ** 0.5


def test_the_view_of_the_own_camera_is_the_real_image(trainer):
    def pictures(made):
        for step in seen_by_method(made, 0):
            index, images = step["target"]
            yield from zip(index.tolist(), codes(images)[:, 1].tolist(), levels(images), strict=True)

    real = {row: image for row, _, image in pictures(trainer(invariance={"camera": False}))}
    assert len(real) == len(TARGET_CAMIDS)
    for row, view, image in pictures(trainer()):
        assert torch.equal(image, real[row]) is (view == TARGET_CAMIDS[row].item())


def test_without_camera_invariance_the_target_is_seen_as_it_is(trainer):
    index, seen = stream(trainer(invariance={"camera": False}), "target")
    row, view, _ = seen.T
    assert torch.equal(row, index)
    assert torch.equal(view, TARGET_CAMIDS[index])


def test_without_a_memory_no_target_is_read(trainer):
    switches = {"exemplar": False, "camera": False, "neighborhood": False}
    for made in (trainer(method="source"), trainer(invariance=switches)):
        assert set(seen_by_method(made, 0)[0]) == {"source"}


def test_supervised_training_takes_images_and_labels_of_the_target(trainer):
    made = trainer(method="supervised")
    index, seen = stream(made, "source")
    row, view, pid = seen.T
    assert torch.equal(row, index)
    assert torch.equal(view, TARGET_CAMIDS[index])
    assert torch.equal(labels_in(made, index), pid - 11)


def test_restyled_images_are_of_the_source_in_another_camera_with_its_labels(trainer):
    made = trainer(method="camstyle", camstyle={"cameras": "source"})
    index, seen = stream(made, "restyled")
    row, view, pid = seen.T
    assert torch.equal(row, index)
    # two cameras: the other one
    assert torch.equal(view, 1 - torch.arange(2).repeat_interleave(2).repeat(4)[index])
    assert torch.equal(labels_in(made, index, "restyled"), (pid[:, None] > SOURCE_PEOPLE).sum(dim=1))


def test_batches_of_identities_hold_several_images_of_each(trainer):
    made = trainer(batch={"source": 8, "instances": 4}, steps_per_epoch=0)
    for step in seen_by_method(made, 0):
        index, images = step["source"]
        assert sorted(Counter(codes(images)[:, 2].tolist()).values()) == [4, 4]
        assert len(set(index.tolist())) == 8


def test_a_target_that_is_used_up_begins_anew_in_another_order(trainer):
    # 18 images, 6 in a batch: three batches are a pass
    index, seen = stream(trainer(batch={"target": 6}), "target")
    passes = index.view(4, 18)
    for order in passes:
        assert sorted(order.tolist()) == list(range(18))
    assert len({tuple(order.tolist()) for order in passes}) == 4
    views = seen[:, 1].view(4, 18)
    by_image = torch.stack([view[order.argsort()] for view, order in zip(views, passes, strict=True)])
    assert len({tuple(view.tolist()) for view in by_image}) == 4


def test_images_that_fill_no_batch_are_left_out_of_a_pass_only(trainer):
    # 18 images, 8 in a batch: two batches are a pass, and two images are left over
    index, _ = stream(trainer(steps_per_epoch=30), "target")
    for order in index.view(15, 16):
        assert len(set(order.tolist())) == 16
    assert set(index.tolist()) == set(range(18))


@pytest.mark.parametrize("changes", [{}, {"method": "camstyle", "camstyle": {"cameras": "source"}}], ids=str)
def test_batches_depend_on_seed_and_epoch_alone(trainer, changes):
    augmented = {"augment": {"crop": "rect"}, "steps_per_epoch": 3}

    def epoch(number, **more):
        return seen_by_method(trainer(**changes, **augmented, **more), number)

    def same(first, second, name):
        return all(
            torch.equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x[name], y[name], strict=True)
        )

    made = trainer(**changes, **augmented)
    later = seen_by_method(made, 2)
    first = epoch(0)
    # the third epoch is the same, whether or not another one came before it
    assert all(same(later, epoch(2), name) for name in first[0])
    assert all(same(seen_by_method(made, 0), first, name) for name in first[0])
    assert not any(same(first, later, name) for name in first[0])
    assert not any(same(first, epoch(0, seed=4), name) for name in first[0])


def test_streams_of_the_same_images_come_in_orders_of_their_own(trainer):
    both = trainer(method="camstyle", camstyle={"cameras": "source"}, batch={"source": 16, "restyled": 16})
    source, restyled = (stream(both, name)[0].view(12, 16) for name in ("source", "restyled"))
    assert not any(torch.equal(first, second) for first, second in zip(source, restyled, strict=True))


def test_drawing_views_leaves_the_order_of_the_images_as_it_is(trainer):
    styled, plain = trainer(), trainer(invariance={"camera": False})
    for name in ("source", "target"):
        assert torch.equal(stream(styled, name)[0], stream(plain, name)[0])
