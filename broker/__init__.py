"""A multi-instance task broker over Redis pub/sub."""
