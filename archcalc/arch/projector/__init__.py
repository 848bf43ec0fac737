"""Projectors from a vision tower into the backbone, one a file."""
