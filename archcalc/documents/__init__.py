"""The Report document and the builders that fill it, one command a file."""
