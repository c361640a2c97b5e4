"""The counter between the engine and its serving processes. `wire` is what they say and `channel` how it travels;
`counter` and `handing` are the engine's side, `front` and what it stands on the serving process's.
"""
