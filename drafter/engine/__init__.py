"""A serving engine as a partner: asking one for answers."""
