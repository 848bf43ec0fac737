"""What a model is: blocks with a forward pass over a tape. No numbers, no calculators."""
