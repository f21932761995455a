"""One look for every HTML page that the project writes."""
