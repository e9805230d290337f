"""Exemplar memory and its neighbours."""
