import numpy as np
import pytest
from small_galleries import fill

from reid_da.errors import InputError
from reid_da.gallery.store import Gallery
from reid_da.gallery.styled import styled_similarities


def test_an_image_is_like_itself_in_other_colours(indexed, embedder, monkeypatch):
    with Gallery(indexed) as gallery:
        found = styled_similarities(gallery, embedder, count=20)
        assert found.shape == (20,)
        assert (found < 1 - 1e-6).all()
        snapshot = gallery.snapshot()
        vectors = snapshot.vectors(np.arange(len(snapshot))).astype(np.float64)
        others = (vectors @ vectors.T)[~np.eye(len(vectors), dtype=bool)]
        assert found.mean() > others.mean()
        # a style that changes nothing
        monkeypatch.setattr("reid_da.gallery.styled.open_style", lambda _, source, *__, **___: Unchanged(source))
        np.testing.assert_allclose(styled_similarities(gallery, embedder, count=20), 1, atol=1e-5)


class Unchanged:
    def __init__(self, source):
        self.source = source

    def gather(self, index, views):
        assert len(index) == len(views)
        return self.source.gather(index)


def test_styles_need_two_cameras(gallery, embedder):
    fill(gallery, 3, camera="1")
    with pytest.raises(InputError, match="two known cameras"):
        styled_similarities(gallery, embedder)
