"""Training methods: one file each."""

from reid_da.training.methods.ecn import ECN

__all__ = ["ECN"]
