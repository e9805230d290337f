"""Camera-style views of target images: the same person as another camera would have taken the picture."""

from reid_da.styles.cache import PackedViews, open_packed_views, pack_views, style_cache_path
from reid_da.styles.creation import Style, create_foreign_views, create_views
from reid_da.styles.export import check_export, write_styled_images
from reid_da.styles.files import FileViews, StyledImages, find_styled_images
from reid_da.styles.transfer import ColourTransfer, TransferViews, there_and_back
from reid_da.styles.views import CameraViews

__all__ = [
    "CameraViews",
    "ColourTransfer",
    "FileViews",
    "PackedViews",
    "Style",
    "StyledImages",
    "TransferViews",
    "check_export",
    "create_foreign_views",
    "create_views",
    "find_styled_images",
    "open_packed_views",
    "pack_views",
    "style_cache_path",
    "there_and_back",
    "write_styled_images",
]
