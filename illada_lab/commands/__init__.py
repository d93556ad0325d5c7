"""Bodies of the commands, one file each."""
