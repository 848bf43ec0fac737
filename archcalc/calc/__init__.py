"""How much: folds over tapes, one question a file."""
