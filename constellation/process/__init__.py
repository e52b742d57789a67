"""What lives in a user's process: init, spawn, channels, operations, the reactor, the template."""
