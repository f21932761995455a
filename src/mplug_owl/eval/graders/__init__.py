"""Who grades answers."""
