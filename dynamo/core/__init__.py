"""The core: everything a node decides, and nothing that touches the world.

No clock, socket, thread, global random, `hash()` or set order in here: time and randomness are
handed in, so that the simulator can replay any history from a seed (N2). `tests/test_tidy.py`
enforces it, and that imports only point down:

    node                                        wires the parts; the one step
    writes  reads  serving  exchange            one subject each
    fanout                                      what a put does after its mint
    requests  handoff                           operations and their ends; hints
    replica  liveness                           the write door; who answers
    dvv  context  ring  messages                what is stored, shown, placed and sent
    planner  config  spaces

Read in this order: `dvv` (what a clock means), `replica` (who may mint), `writes`, `fanout` and
`reads` (one request each), `handoff`, `exchange`, `node`. The design and all numbered invariants:
`DESIGN.md`.
"""
