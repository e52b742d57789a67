"""The transports that come with constellation."""
