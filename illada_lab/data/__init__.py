"""Documents, tokenizers, packing and batches."""
