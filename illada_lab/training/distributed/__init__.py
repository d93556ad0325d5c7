"""One model on many devices: placing it, sharding it, and what its processes decide together."""
