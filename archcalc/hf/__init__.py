"""Hugging Face configs in, a spec out: never a second way into the calculators."""
