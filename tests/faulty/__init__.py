"""Deliberate faults in a copy of the package, one at a time: do the random services see them?"""
