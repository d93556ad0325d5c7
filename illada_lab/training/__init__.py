"""Training: the LightningModule, optimisers, schedules, validation, checkpoints."""
