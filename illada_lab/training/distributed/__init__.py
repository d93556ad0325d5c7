"""One model on many devices: placing it, sharding it, and the state of its optimiser under the parameters' names."""
