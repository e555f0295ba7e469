"""Measurements, side by side in one run; `make numbers` makes a page of them."""
