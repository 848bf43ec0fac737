"""Attention blocks, one a file."""
