"""Linked images that are kept: keys, store, validation."""
