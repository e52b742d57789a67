"""Launchers start and stop nodes on somebody else's engine; none comes with local mode."""
