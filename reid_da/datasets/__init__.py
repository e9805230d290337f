"""Data sets on disk as tables of paths, identities and cameras."""

from reid_da.datasets.formats import FORMATS
from reid_da.datasets.importing import import_folder
from reid_da.datasets.joining import join_datasets, load_datasets
from reid_da.datasets.loading import load_dataset
from reid_da.datasets.table import JUNK_PID, UNLABELLED_PID, Dataset, SampleTable

__all__ = [
    "FORMATS",
    "JUNK_PID",
    "UNLABELLED_PID",
    "Dataset",
    "SampleTable",
    "import_folder",
    "join_datasets",
    "load_dataset",
    "load_datasets",
]
