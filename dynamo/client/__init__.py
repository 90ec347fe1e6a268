"""The embedding client: one pure session, two thin drivers.

    surface    what a call means: flows, written once as generators of requests
    session    which node is asked, when again, and how it ends; no socket, clock or thread
    wires      ZeroMQ sockets for a session
    blocking, aio      run flows over wires: with a lock and a poll, or inside an event loop

Read `surface` for the meaning of get and put, `session` for what happens on failures. This file
imports nothing, so that the simulator gets the session without the sockets.
"""
