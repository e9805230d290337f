"""Data sets on disk as tables of paths, identities and cameras."""

from reid_da.datasets.table import JUNK_PID, UNLABELLED_PID, Dataset, SampleTable

__all__ = ["JUNK_PID", "UNLABELLED_PID", "Dataset", "SampleTable"]
