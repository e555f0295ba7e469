"""Sweeps over a whole machine: `make survey`."""
