"""The vocabulary, the contracts and the protocol machines; no sockets, threads, clocks or randomness here."""
