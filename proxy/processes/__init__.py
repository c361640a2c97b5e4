"""A server of several processes: `parent` starts them and starts them again, `engine` has all state, `serving` the
clients; `children` forks.
"""
