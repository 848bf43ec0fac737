"""Megatron-LM's functional tests against `archcalc train`: rows, their specs and plans, and the table."""
