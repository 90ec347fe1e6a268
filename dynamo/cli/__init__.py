"""The command line: `dynamo COMMAND`, one module per group of commands, imported when used.

Read `main` first (the table of commands, and what becomes of errors), then `shared` (what every
command gets), `show` (how keys, values and tables reach a terminal), then any command.
"""
