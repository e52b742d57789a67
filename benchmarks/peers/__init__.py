"""The peers: bare sockets, multiprocessing, zmq, asyncio and uvloop streams, and ways to start a process."""
