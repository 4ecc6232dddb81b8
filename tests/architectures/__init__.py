"""Every architecture that attnprobe promises to record, as tiny random models."""
