"""Collections of pictures or captions to vectors on disk, in parts, so that nothing is lost to bad luck.

`sources` says what there is, `ahead` reads and decodes it in threads, `run` takes it through a model, and
`store` keeps what is done. Each item is known by its name and by the SHA-256 of its content.
"""
