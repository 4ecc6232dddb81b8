"""Where a causal language model looks while it predicts a sequence."""
