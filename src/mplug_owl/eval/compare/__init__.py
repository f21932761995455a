"""`owl report`: several systems in one table, and what their differences are worth."""
