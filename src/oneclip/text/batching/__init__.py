"""Arrange token ids in batches: padding, length buckets, shared prefixes."""
