"""Data: files of many layouts in through one door (`sources.read`), as conversations; from there to token ids."""
