"""`owl answer`: an answer to every record of a data source, on the disk."""
