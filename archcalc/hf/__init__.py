"""Hugging Face configs in, a spec out. Never a second way into the calculators: what comes out is a spec."""
