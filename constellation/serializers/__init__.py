"""The serializers that come with constellation."""
