"""The commands as functions: what `import archcalc` offers. archcalc/__init__.py lists the names."""
