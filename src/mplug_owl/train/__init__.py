"""The school: who learns what, from which data, for how long; and a run that can be stopped and resumed."""
