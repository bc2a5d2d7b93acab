"""A serving engine as a partner: the command that starts one, requests to it, many at a time."""
