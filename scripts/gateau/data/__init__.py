"""Reading and validating raw data: long samples and short chats, the index of token lengths, generated rows."""
