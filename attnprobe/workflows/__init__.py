"""The only place where both sides meet: running a model, and the file it writes."""
