"""Random services: a generator, a builder that records what happens, and a checker."""
