"""Feed-forward blocks, one a file."""
