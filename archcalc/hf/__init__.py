"""Hugging Face configs in: the files of a release, read as strictly as our own."""
