"""Ablations, sweeps and comparisons; what trained models make of images."""
