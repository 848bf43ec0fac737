"""YAML text to a validated, frozen spec."""
