"""Vision towers, one a file."""
