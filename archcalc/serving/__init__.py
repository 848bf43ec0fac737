"""Serving memory: deployments, engine profiles, what is left for the cache."""
