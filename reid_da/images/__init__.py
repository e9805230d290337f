"""Batches of images: packed cache, augmentation, samplers."""
