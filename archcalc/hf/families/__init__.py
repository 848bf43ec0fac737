"""Dialects by family, a row a `model_type`."""
