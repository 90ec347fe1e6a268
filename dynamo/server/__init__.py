"""The node as a process: configuration, sockets, and the loop that drives the core.

config    a TOML file and the environment, checked whole before anything is opened
loop      poll, drain, `Node.step`, flush
peers     whom the node speaks with, as its roster changes
outlets   what is on its way out, counted in bytes
tidings   what the log says of the ring
admin     questions to running nodes over their client port
logs      structured lines on stderr
main      one process from start to exit code
"""
