"""Work out what a checkpoint is: its configuration, preprocessing and tokenizer."""
