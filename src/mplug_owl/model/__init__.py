"""The model: three modules, their config, their processor, and how weights come in."""
