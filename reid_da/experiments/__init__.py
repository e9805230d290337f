"""Experiments: data, camera styles, networks and a method put together, and trained or resumed in a run folder."""
