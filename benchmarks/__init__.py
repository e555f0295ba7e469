"""Measurements, side by side in one run; `make bench` prints and draws them."""
