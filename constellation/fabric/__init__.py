"""The daemons: keeper, node, master, bridge, monitor."""
