"""The same works done by others, each in an environment and a process of its own.

A peer's file imports the peer, and of this package what needs nothing but Python: neither Trio nor
trio_modules is there.  It names the works that the peer can do as the benchmarks name theirs.
"""
