"""Embed collections of images or texts to disk, in parts, so that an interruption loses little work.

`sources` lists the items, `prefetch` reads and decodes them in threads, `run` encodes them, and `store` keeps the
results. Each item is identified by its name and by the SHA-256 of its content.
"""
