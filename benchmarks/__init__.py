"""Figures of Constellation beside its named peers: `python -m benchmarks`, see README.md in this folder."""
