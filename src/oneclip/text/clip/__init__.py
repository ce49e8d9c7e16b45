"""CLIP's own tokenizer: byte-level byte-pair encoding."""
