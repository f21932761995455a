"""`owl judge`: a model that sees the pictures grades answers, and what is known of how well it does."""
