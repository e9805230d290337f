"""Camera-style views of target images: the same person as another camera would have taken the picture."""

from reid_da.camstyle.creation import Style, create_views
from reid_da.camstyle.files import FileViews, StyledImages, find_styled_images
from reid_da.camstyle.transfer import ColourTransfer, TransferViews
from reid_da.camstyle.views import CameraViews, sample_views

__all__ = [
    "CameraViews",
    "ColourTransfer",
    "FileViews",
    "Style",
    "StyledImages",
    "TransferViews",
    "create_views",
    "find_styled_images",
    "sample_views",
]
