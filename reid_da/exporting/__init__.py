"""Models that run elsewhere: ONNX, TorchScript, or weights in one file, with a check and a model card."""

from reid_da.exporting.export import Export as Export
from reid_da.exporting.export import export_model as export_model
from reid_da.exporting.formats import FORMATS as FORMATS
