"""Backbones, their weights, and feature extraction."""
