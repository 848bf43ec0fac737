"""What holds for every test."""

import gc

gc.set_threshold(20_000, 20, 20)  # torch and transformers leave a million objects that no pass over them frees
