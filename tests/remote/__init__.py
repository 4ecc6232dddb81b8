"""Models that come with their own code, as a hub's remote code does."""
