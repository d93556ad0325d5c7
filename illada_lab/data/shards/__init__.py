"""Data that was tokenised once, in files that are mapped into memory: made by `illada-lab prepare`, read by `data=shards`."""
