"""The scheduler that comes with constellation."""
