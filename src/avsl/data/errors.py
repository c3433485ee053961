"""What is said about data that cannot be used."""


class DataError(ValueError):
    """Data or media that cannot be used; the message is one sentence naming the file, key or value."""
