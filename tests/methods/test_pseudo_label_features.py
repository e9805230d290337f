"""What clusters are made of: features centred by camera, or averaged over camera styles; what training shows."""

import pytest
import torch
from known_features import around, domain, method_on
from torch.nn import functional

from reid_da.config import merge
from reid_da.errors import InputError
from reid_da.experiments.domains import ExperimentContext
from reid_da.images import augment
from reid_da.methods import METHODS, settings_of

PEOPLE = [0, 1, 0, 1, 0, 1, 0, 1]
CAMERAS = [0, 0, 0, 0, 1, 1, 1, 1]
SMALL = {"k1": 4, "k2": 1, "min_samples": 2, "eps": 0.5}
MODEL = {"width": 0.25, "embedding": "none", "dropout": 0.0, "target_dropout": "none", "test_feature": "embedding"}


def features_of_cameras_that_differ_more_than_people():
    shift = torch.zeros(8, around(PEOPLE).shape[1])
    shift[torch.arange(8), [5 + camera for camera in CAMERAS]] = 3
    return functional.normalize(around(PEOPLE) + shift)


@pytest.mark.parametrize("method", ["cluster-contrast", "cap", "clusters", "spcl"])
@pytest.mark.parametrize("center", [False, True])
def test_centred_features_are_clustered_by_person_and_not_by_camera(method, center):
    target = domain("target", pids=PEOPLE, camids=CAMERAS)
    changes = {
        "method": method,
        "clustering": {**SMALL, "center_cameras": center},
        "batch": {"target": 4, "instances": 2},
    }
    made, context = method_on([target], changes)
    features = context.features["target"] = features_of_cameras_that_differ_more_than_people()
    made.begin_epoch(0)
    assert made.target.labels.tolist() == (PEOPLE if center else CAMERAS)
    if method == "cluster-contrast":
        # the vectors are means of what the network says, which nobody centres in a step
        for cluster in range(2):
            members = features[made.target.labels == cluster]
            torch.testing.assert_close(made.memory.slots[cluster], functional.normalize(members.mean(0), dim=0))


def test_one_camera_cannot_be_centred():
    with pytest.raises(InputError, match="one camera.*clustering.center_cameras needs several"):
        method_on(
            [domain("target", pids=PEOPLE, camids=[0] * 8)],
            {"method": "cluster-contrast", "clustering": {"center_cameras": True}},
        )


def test_an_average_over_styles_needs_styles():
    with pytest.raises(InputError, match="clustering.over_styles.*camera=true"):
        method_on(
            [domain("target", pids=PEOPLE, camids=CAMERAS)],
            {"method": "cluster-contrast", "clustering": {"over_styles": True}},
        )


@pytest.mark.parametrize("method", ["cluster-contrast", "cap", "clusters", "spcl", "mmt"])
def test_styles_are_shown_in_training_and_averaged_before_clustering(small_settings, method):
    changes = {
        "method": method,
        "data": {"source": None},
        "camera": True,
        "model": MODEL,
        "batch": {"target": 8, "instances": 2},
        "clustering": {"k1": 5, "k2": 2, "min_samples": 2, "over_styles": True, "eps_share": None},
    }
    settings = settings_of(merge(small_settings.tree, changes), where="test")
    context = ExperimentContext(settings)
    made = METHODS[method](settings, context)
    target = context.domain("target")
    styled = context.styled(target, settings.views)
    network = made.inference.eval()
    with torch.inference_mode():
        of_styles = [
            functional.normalize(network(augment.normalize(styled.images.gather(rows, torch.full_like(rows, camera)))))
            for rows in [target.rows]
            for camera in range(target.num_cameras)
        ]
    expected = functional.normalize(torch.stack(of_styles).sum(dim=0))
    torch.testing.assert_close(made.target.extract(network), expected)
    for stream in made.begin_epoch(0).streams.values():
        assert (stream.views, stream.domain.num_views) == (1, target.num_cameras)
