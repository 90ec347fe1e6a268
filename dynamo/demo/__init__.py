"""`dynamo demo`: a ring that loses a node, splits in two, and loses nothing, before your eyes.

Read `stage` first (the five nodes and what can be done to them), then `traffic` (the reads and
writes that go on meanwhile, each remembered), then `script` (the story in plain lines), and `live`
with `scene` and `view` (the same on a terminal, with keys). `play` opens and closes it all, `keys`
and `signals` are its ears, and `records` has the data.
"""
